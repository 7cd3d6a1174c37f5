"""Many accounts and regions, most of them empty.

    python -m tests.benchmarks.wide [--accounts 1000] [--jobs 20]

17 regions for each account; one target in ten has jobs. The cost of a target is what is left of
the CPU after the jobs' own cost, which is taken from a run over one region with as many jobs.
"""

from __future__ import annotations

import argparse
import sys

from collector.demo import REGIONS
from tests.benchmarks.harness import fake_aws, measure
from tests.benchmarks.memory import QUIET, one_region

ONE_IN = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=20)
    options = parser.parse_args()
    regions = ",".join(REGIONS[:17])
    targets = options.accounts * 17
    jobs = targets // ONE_IN * options.jobs
    arguments = ("--accounts", str(options.accounts), "--regions", regions)
    filled = ("--jobs", str(options.jobs), "--fill-one-in", str(ONE_IN))
    command = (sys.executable, "-m", "collector", "run", "--accounts", "organization")
    with fake_aws(*arguments, *filled) as environment:
        wide = measure([*command, "--role-name", "Reader", *QUIET], environment)
    alone = one_region(jobs)
    rest = (wide.cpu - alone.cpu) / targets * 1000
    print(f"{targets:,} targets, {jobs:,} jobs: {wide.wall:.0f} s, peak {wide.peak:.0f} MB")
    print(f"CPU {wide.cpu:.1f} s, of which {alone.cpu:.1f} s for the jobs: {rest:.2f} ms a target")


if __name__ == "__main__":
    main()
