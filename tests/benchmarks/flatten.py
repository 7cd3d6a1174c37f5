"""Time to flatten one answer, beside reading it and writing the record.

    python -m tests.benchmarks.flatten

The answers are those of the fake AWS; medians of repeated passes over the same thousand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from collector.flatten import Flattener, Notes
from collector.tables import load_table
from collector.testing import Estate

JOBS, PASSES = 1_000, 15


def median(work: Callable[[Any], Any], items: list[Any]) -> float:
    """Microseconds for each item."""
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for item in items:
            work(item)
        times.append(time.perf_counter() - start)
    return statistics.median(times) / len(items) * 1e6


def main() -> None:
    estate = Estate.generate(1, ("us-east-1",), JOBS)
    account = estate.accounts[0]
    names = list(estate.jobs(account, "us-east-1"))
    answers = [orjson.dumps(estate.describe(account, "us-east-1", name)) for name in names]
    flatten = Flattener(load_table())
    read = [orjson.loads(answer) for answer in answers]
    records = [flatten(answer, account, [], Notes()) for answer in read]
    stamps = sum(str(record).count("Z'") for record in records) / JOBS
    size = sum(map(len, answers)) / JOBS
    print(f"an answer: {size:.0f} bytes, {stamps:.1f} timestamps on average")
    reading = median(orjson.loads, answers)
    flattening = median(lambda answer: flatten(answer, account, [], Notes()), read)
    writing = median(orjson.dumps, records)
    print(
        f"orjson.loads {reading:.1f} us, flatten {flattening:.1f} us, orjson.dumps {writing:.1f} us"
    )


if __name__ == "__main__":
    main()
