"""Time of `collector run` over the least that the rate limits allow, and refused calls.

    python -m tests.benchmarks.rates

The fake AWS limits each account, region and operation with a token bucket and takes 50 ms for an
answer; some cases change the limit while the run is on. "Least" is the time in which the bucket
gives out the tokens for all calls of one target.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from collector.testing import Estate, FakeAws, Limits
from tests.benchmarks.harness import environment_of, measure
from tests.benchmarks.memory import QUIET
from tests.benchmarks.throttle import Case as Bucket
from tests.benchmarks.throttle import least_time, steps

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1")
LATENCY = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """``describe`` holds (from second, calls a second); ``lists`` calls a second, or None."""

    name: str
    jobs: int
    describe: tuple[tuple[float, float], ...]
    burst: float
    lists: float | None = None


CASES = (
    Case("20/s, burst 40; 4 x 300 jobs", 300, ((0, 20),), 40),
    Case("5/s, burst 5; 4 x 150 jobs", 150, ((0, 5),), 5),
    Case("20/s, lists 2/s; 4 x 1000 jobs", 1000, ((0, 20),), 40, 2),
    Case("20/s, 10/s from 20 s, 20/s from 40 s; 4 x 1000", 1000, ((0, 20), (20, 10), (40, 20)), 20),
)


def run(case: Case, folder: Path) -> dict[str, object]:
    """The report of a run; the limits change by the clock of its first call."""
    estate = Estate.generate(1, REGIONS, case.jobs, now=time.time())
    limits = Limits({"DescribeTrainingJob": (case.describe[0][1], case.burst)})
    if case.lists:
        limits.set("ListTrainingJobs", case.lists)
    over = threading.Event()
    with FakeAws(estate, limits=limits, latency=LATENCY).in_thread() as aws:

        def change() -> None:
            while not aws.calls["DescribeTrainingJob"] and not over.wait(0.01):
                pass
            start = time.monotonic()
            for at, rate in case.describe[1:]:
                if over.wait(max(0.0, start + at - time.monotonic())):
                    return
                limits.set("DescribeTrainingJob", rate, case.burst)

        changing = threading.Thread(target=change)
        changing.start()
        report = folder / "report.json"
        command = (sys.executable, "-m", "collector", "run", "--regions", ",".join(REGIONS))
        measure([*command, *QUIET, "--report", str(report)], environment_of(aws.url, os.environ))
        over.set()
        changing.join()
    answer: dict[str, object] = json.loads(report.read_text())
    return answer


def main() -> None:
    print(f"{'describe':50}{'seconds':>9}{'over least':>12}{'refused':>9}")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            report = run(case, Path(folder))
        if not report["complete"]:
            raise RuntimeError("the run was not complete")
        least = least_time(Bucket("", steps(*case.describe), case.burst, case.jobs))
        calls = sum(count["calls"] for count in report["calls"].values())
        refused = sum(count["throttled"] for count in report["calls"].values()) / calls
        seconds = max(target["seconds"] for target in report["targets"])
        print(f"{case.name:50}{seconds:9.1f}{seconds / least:11.3f}x{refused:9.2%}", flush=True)


if __name__ == "__main__":
    main()
