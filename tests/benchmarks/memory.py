"""Peak memory of `collector run` as jobs and targets grow.

    python -m tests.benchmarks.memory [--most 462178] [--targets 17000]

The fake AWS runs in a process of its own. Peaks are the kernel's count for the whole process.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks.harness import Cost, fake_aws, measure

QUIET = ("--sink", "/dev/null", "--progress", "off", "--log-level", "error")


def one_region(jobs: int) -> Cost:
    server = ("--accounts", "1", "--regions", "us-east-1", "--jobs", str(jobs))
    with fake_aws(*server) as environment:
        command = [sys.executable, "-m", "collector", "run", "--regions", "us-east-1", *QUIET]
        return measure(command, environment)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=462_178)
    arguments = parser.parse_args()
    print(f"{'jobs in one region':>20}{'peak MB':>10}{'CPU ms a job':>14}{'jobs a second':>15}")
    for jobs in (2_000, 20_000, arguments.most):
        cost = one_region(jobs)
        print(f"{jobs:20,}{cost.peak:10.0f}{cost.cpu / jobs * 1000:14.3f}{jobs / cost.wall:15.0f}")


if __name__ == "__main__":
    main()
