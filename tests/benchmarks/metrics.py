"""What metrics cost: CPU of a run without them, with emf, and with otel, side by side.

    python -m tests.benchmarks.metrics [--jobs 10000] [--rounds 5]

The OTLP receiver is a server on this machine that throws everything away. The runs take turns; each
figure is the median of the rounds. `off` runs twice in each round: the two differ by chance alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile

from tests.benchmarks.harness import Cost, fake_aws, measure
from tests.benchmarks.sinks import discarding


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    server = ("--accounts", "1", "--regions", "us-east-1", "--jobs", str(arguments.jobs))
    with (
        tempfile.TemporaryDirectory() as folder,
        discarding() as url,
        fake_aws(*server) as fake,
    ):
        environment = {**fake, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        kinds = {
            "off": [],
            "off, again": [],
            "emf": ["--metrics", "emf", "--metrics-file", f"{folder}/metrics.jsonl"],
            "otel": ["--metrics", "otel"],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in kinds}
        for _ in range(arguments.rounds):
            for name, flags in kinds.items():
                command = [sys.executable, "-m", "collector", "run", "--regions", "us-east-1"]
                quiet = ["--sink", "/dev/null", "--progress", "off", "--log-level", "warning"]
                costs[name].append(measure([*command, *quiet, *flags], environment))
    base = statistics.median(cost.cpu for cost in costs["off"])
    print(f"{arguments.jobs} jobs in one region, median of {arguments.rounds}")
    print(f"{'':16}{'CPU ms a job':>14}{'more than off':>16}{'peak MB':>10}{'seconds':>10}")
    for name, runs in costs.items():
        cpu = statistics.median(cost.cpu for cost in runs)
        wall = statistics.median(cost.wall for cost in runs)
        peak = max(cost.peak for cost in runs)
        each = cpu / arguments.jobs * 1000
        print(f"{name:16}{each:14.3f}{cpu / base - 1:16.1%}{peak:10.0f}{wall:10.1f}")


if __name__ == "__main__":
    main()
