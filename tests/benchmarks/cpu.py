"""CPU of a whole run for each job, against plain scripts and against the floor.

    python -m tests.benchmarks.cpu [--jobs 20000] [--rounds 3] [--tls]

Each program reads one region of the fake AWS, which runs in a process of its own; the programs
take turns, and each figure is the median of the rounds. The scripts describe and tag every job
(two calls each); the floor only describes, and keeps nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.harness import Cost, fake_aws, make_certificate, measure

OURS = "collector run"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--tls", action="store_true", help="HTTPS, with AWS_CA_BUNDLE")
    arguments = parser.parse_args()
    commands = {
        OURS: [
            *(sys.executable, "-m", "collector", "run", "--regions", "us-east-1"),
            *("--sink", "/dev/null", "--progress", "off", "--log-level", "warning"),
        ],
        **{
            name: [sys.executable, "-m", "tests.benchmarks.contenders", name] for name in CONTENDERS
        },
    }
    chosen = [name for name in commands if not arguments.only or name in arguments.only]
    costs: dict[str, list[Cost]] = {name: [] for name in chosen}
    server = ("--accounts", "1", "--regions", "us-east-1", "--jobs", str(arguments.jobs))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        certificate = Path(folder) / "certificate.pem" if arguments.tls else None
        if certificate:
            make_certificate(certificate)
        environment = stack.enter_context(fake_aws(*server, certificate=certificate))
        for _ in range(arguments.rounds):
            for name in chosen:
                costs[name].append(measure(commands[name], environment))
    ours = statistics.median(cost.cpu for cost in costs[OURS])
    print(f"{arguments.jobs} jobs in one region, median of {arguments.rounds}")
    print(f"{'':28}{'CPU ms a job':>14}{'ratio to ours':>16}{'peak MB':>10}")
    for name, runs in costs.items():
        cpu = statistics.median(cost.cpu for cost in runs)
        peak = max(cost.peak for cost in runs)
        print(f"{name:28}{cpu / arguments.jobs * 1000:14.3f}{cpu / ours:15.2f}x{peak:10.0f}")


if __name__ == "__main__":
    main()
