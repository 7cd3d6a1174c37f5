"""What tests of state share: estates whose jobs have ended, and what a run has left behind."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard
from harness import REGIONS, ROLE

from collector.state import State, UnfinishedRun, dump, load
from collector.store import DOCUMENT
from collector.testing import Estate

TABLE = "aws_sagemaker_trainingjob"
FIRST, SECOND = "111111111111", "222222222222"
HOME, ABROAD = REGIONS
DAY = 86_400.0


def fill(estate: Estate, account: str, region: str, ages: Iterable[float]) -> None:
    """Jobs so many days old, that had ended ten minutes after they were created."""
    for age in ages:
        estate.add_job(
            account,
            region,
            name=f"job-{age:03}".replace(".", "-"),
            creation_time=estate.now - age * DAY,
            TrainingJobStatus="Completed",
        )


def filled(ages: Iterable[float]) -> Estate:
    """Two accounts by two regions with such jobs in each."""
    estate = Estate.generate(2, REGIONS, 0, now=time.time())
    for account in estate.accounts:
        for region in REGIONS:
            fill(estate, account, region, ages)
    return estate


def arguments(folder: Path, *more: str, report: bool = True) -> list[str]:
    """`collector run` over two accounts by two regions, with state and report in ``folder``."""
    places = [
        "--accounts",
        f"{FIRST},{SECOND}",
        "--role-name",
        ROLE,
        "--regions",
        ",".join(REGIONS),
    ]
    kept = ["--state", str(folder / "state")]
    if report:
        kept += ["--report", str(folder / "report.json")]
    return ["run", *places, *kept, *more]


def document(folder: Path) -> Path:
    """The document of the state in ``folder``."""
    return folder / TABLE / DOCUMENT


def known(folder: Path) -> State:
    """The state in ``folder``; raises StateError if it is not whole."""
    return load(document(folder).read_bytes(), TABLE, "here")


def set_back(folder: Path, seconds: float) -> None:
    """Make it so that the run that has just ended was so long ago."""
    state = known(folder)
    done = {key: target.state for key, target in state.run.done.items()} if state.run else {}
    targets = {
        key: replace(
            target,
            full_at=target.full_at - seconds,
            coverage=replace(target.coverage, watermark=target.coverage.watermark - seconds),
        )
        for key, target in {**state.targets, **done}.items()
    }
    document(folder).write_bytes(dump(State(TABLE, state.saved_at, targets)))


def committed(run: UnfinishedRun | None) -> int:
    """How many records a state calls delivered."""
    if run is None:
        return 0
    return sum(target.emitted for target in (*run.done.values(), *run.open.values()))


def content(path: Path, size: int | None = None) -> bytes:
    """What a file, or the first ``size`` bytes of one, holds: of one gzip member, or one frame."""
    data = path.read_bytes()[:size]
    kind = path.name.removesuffix(".partial").rpartition(".")[2]
    if kind not in {"gz", "zst"}:
        return data
    decoder: Any = zlib.decompressobj(31) if kind == "gz" else ZSTANDARD.decompressobj()
    whole: bytes = decoder.decompress(data)
    assert size is not None or decoder.eof
    assert decoder.unused_data == b""
    return whole


ZSTANDARD = zstandard.ZstdDecompressor()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a whole file."""
    return [json.loads(line) for line in content(path).splitlines()]


def partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def wait_until(condition: Callable[[], object]) -> None:
    """Return once it is so."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)
