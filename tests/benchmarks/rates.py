"""Time of `collector run` over the least that the rate limits allow, and refused calls.

    python -m tests.benchmarks.rates

The fake AWS limits each account, region and operation with a token bucket and takes 50 ms for an
answer. "Least" is (calls - burst) / rate for the operation that takes longest in one target.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.harness import fake_aws, measure
from tests.benchmarks.memory import QUIET


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    jobs: int
    regions: str
    limits: tuple[tuple[str, float, float], ...]


FOUR = "us-east-1,us-west-2,eu-west-1,eu-central-1"
CASES = (
    Case("describe 20/s, burst 40; 4 x 300 jobs", 300, FOUR, (("DescribeTrainingJob", 20, 40),)),
    Case("describe 5/s, burst 5; 4 x 150 jobs", 150, FOUR, (("DescribeTrainingJob", 5, 5),)),
    Case(
        "describe 20/s, list 2/s; 4 x 1000 jobs",
        1000,
        FOUR,
        (("DescribeTrainingJob", 20, 40), ("ListTrainingJobs", 2, 2)),
    ),
)


def least(case: Case) -> float:
    """Seconds below which the busiest operation of one target cannot be done."""
    calls = {"DescribeTrainingJob": case.jobs, "ListTrainingJobs": -(-case.jobs // 100)}
    return max((calls[name] - burst) / rate for name, rate, burst in case.limits)


def main() -> None:
    print(f"{'case':42}{'seconds':>9}{'over least':>12}{'refused':>9}{'calls a job':>13}")
    for case in CASES:
        flags = [f"--limit={name}={rate}/{burst}" for name, rate, burst in case.limits]
        arguments = ("--accounts", "1", "--regions", case.regions, "--jobs", str(case.jobs))
        with (
            fake_aws(*arguments, "--latency", "0.05", *flags) as environment,
            tempfile.TemporaryDirectory() as folder,
        ):
            path = Path(folder) / "report.json"
            command = (sys.executable, "-m", "collector", "run", "--regions", case.regions)
            measure([*command, *QUIET, "--report", str(path)], environment)
            report = json.loads(path.read_text())
        if not report["complete"]:
            raise RuntimeError("the run was not complete")
        calls = sum(count["calls"] for count in report["calls"].values())
        refused = sum(count["throttled"] for count in report["calls"].values()) / calls
        seconds = max(target["seconds"] for target in report["targets"])
        jobs = report["totals"]["emitted"]
        print(
            f"{case.name:42}{seconds:9.1f}{seconds / least(case):11.3f}x"
            f"{refused:9.2%}{calls / jobs:13.3f}"
        )


if __name__ == "__main__":
    main()
