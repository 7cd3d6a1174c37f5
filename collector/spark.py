"""The crawl as a Spark data source, batch and streaming, on Spark's public DataSource API.

    from collector.spark import register

    register(spark)
    df = spark.read.format("aws_sagemaker_trainingjob").options(
        accounts="organization", roleName="InventoryReader"
    ).load()

An adapter: what it spreads, and how, is in `collector.spread`. Targets are found where Spark plans
the read; each task crawls its own, with credentials that it takes from the SDK where it runs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from collector.errors import ConfigurationError
from collector.model import Column, Span
from collector.schema import spark as spark_schema
from collector.spread import offsets, read, reports
from collector.spread.filters import Filters
from collector.spread.options import Options, read_options, report_options, select
from collector.spread.parts import Found, Key, find_targets, make_parts, new_run
from collector.spread.rows import Rows
from collector.tables import load_table, table_names

try:
    from pyspark import TaskContext
    from pyspark.sql.datasource import (
        DataSource,
        DataSourceReader,
        DataSourceStreamReader,
        InputPartition,
    )
    from pyspark.sql.types import StructType
except ImportError:
    raise ImportError(
        "collector.spark needs pyspark 4: install it with "
        "`pip install 'aws-resource-collector[spark]'` on the driver and on every executor."
    ) from None

try:
    from pyspark.sql.streaming.datasource import SupportsTriggerAvailableNow
except ImportError:  # before Spark 4.2, which asks for the offset once then by itself

    class SupportsTriggerAvailableNow:  # type: ignore[no-redef]
        pass


__all__ = ["register"]

PUSHDOWN = "spark.sql.python.filterPushdown.enabled"
"""The setting of a session without which Spark shows no filters to a source (from Spark 4.1)."""

POLL_EVERY = 60.0
"""Seconds between two offsets of a stream, at least: each costs a list of every target."""

_log = logging.getLogger("collector.spark")


def register(spark: Any, *, push_filters: bool = False) -> None:
    """Make every table known to a session by its name, and its reports as ``<name>_report``.

    With ``push_filters``, a query's conditions on ``creation_time``, ``training_job_status``,
    ``account_id`` and the ARN's beginning spare calls. Spark 4 keeps a DataFrame's pushed filters
    for every other query of that DataFrame (or view), which then lack rows: call ``load()`` once
    for each query, or leave it off and narrow with options.
    """
    for name in table_names():
        names = {"table": name, "push_filters": push_filters}
        spark.dataSource.register(type(f"Source_{name}", (TableSource,), names))
        spark.dataSource.register(type(f"Reports_{name}", (ReportSource,), {"table": name}))
    if push_filters:
        spark.conf.set(PUSHDOWN, "true")


class TableSource(DataSource):
    """One table; `register` makes a class of it for each."""

    table: ClassVar[str] = ""
    push_filters: ClassVar[bool] = False

    @classmethod
    def name(cls) -> str:
        return cls.table

    def schema(self) -> StructType:
        return _struct(read_options(load_table(self.table), self.options).columns)

    def reader(self, schema: StructType) -> DataSourceReader:
        options = self._options(schema).for_batch()
        return (FilteredReader if self.push_filters else TableReader)(options)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802
        return TableStream(self._options(schema).for_stream())

    def _options(self, schema: StructType) -> Options:
        options = read_options(load_table(self.table), self.options)
        return replace(options, columns=_asked(options.columns, schema))


class TableReader(DataSourceReader):
    """A batch: everything that the options name, as it is now."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._filters = Filters(load_table(options.settings.table))
        self._empty = False

    def partitions(self) -> Sequence[InputPartition]:
        if self._empty:
            return [InputPartition(None)]
        found = _find(self._options).only(self._filters.wants)
        return _partitions(self._options, dict.fromkeys(found.keys), found)

    def read(self, partition: InputPartition) -> Iterator[Any]:
        return _read(self._options, partition)


class FilteredReader(TableReader):
    """As TableReader, and Spark shows it the filters of the query: it insists if one may see them.

    All are given back: Spark applies each again, to the jobs as they are described.
    """

    def pushFilters(self, filters: list[Any]) -> Iterable[Any]:  # noqa: N802
        for each in filters:
            self._filters.add(each)
        settings = self._filters.narrowed(self._options.settings, time.time())
        self._empty = settings is None
        self._options = replace(self._options, settings=settings or self._options.settings)
        return filters


class TableStream(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """A stream of what was created or changed, by the service's clock and the jobs' own times.

    A batch, from one offset to the next, reads the jobs whose latest change lies between the two.
    Offsets stay behind the clock by the setting ``overlap``: a change has that long to show.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._available: Found | None = None
        self._last = offsets.BEGINNING
        self._asked_at = -math.inf
        self._poll_every = POLL_EVERY if options.poll_every is None else options.poll_every

    def initialOffset(self) -> offsets.Offset:  # noqa: N802
        return offsets.BEGINNING

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        self._available = _find(self._options)

    def latestOffset(  # noqa: N802
        self,
        start: offsets.Offset | None = None,
        limit: Any = None,  # noqa: ARG002
    ) -> offsets.Offset:
        start = start or self._last  # Spark 4.0 and 4.1 do not say
        found = self._available
        if found is None:
            if time.monotonic() - self._asked_at < self._poll_every:
                return start
            found = _find(self._options)
            self._asked_at = time.monotonic()
        until = math.floor(found.now - self._options.settings.overlap)
        self._last = offsets.advance(start, found.keys, until)
        return self._last

    def partitions(self, start: offsets.Offset, end: offsets.Offset) -> Sequence[InputPartition]:
        return _partitions(self._options, offsets.spans(start, end))

    def read(self, partition: InputPartition) -> Iterator[Any]:
        return _read(self._options, partition)


class ReportSource(DataSource):
    """What the tasks of a table's reads have left at ``reportPath``."""

    table: ClassVar[str] = ""

    @classmethod
    def name(cls) -> str:
        return f"{cls.table}_report"

    def schema(self) -> StructType:
        report_options(self.options)
        return _struct(reports.COLUMNS)

    def reader(self, schema: StructType) -> DataSourceReader:
        return ReportReader(self.table, dict(self.options), _asked(reports.COLUMNS, schema))


class ReportReader(DataSourceReader):
    """Reports are few and small: one task reads them all."""

    def __init__(self, table: str, options: Mapping[str, str], columns: tuple[Column, ...]) -> None:
        self._table = table
        self._options = options
        self._columns = columns

    def partitions(self) -> Sequence[InputPartition]:
        return [InputPartition(None)]

    def read(self, partition: InputPartition) -> Iterator[Any]:  # noqa: ARG002
        found = reports.read_reports(*report_options(self._options))
        records = list(reports.rows([each for each in found if each["table"] == self._table]))
        if records:
            yield Rows(self._columns).batch(records)


def _find(options: Options) -> Found:
    """The targets there are now."""
    found = find_targets(options.settings)
    for warning in found.warnings:
        _log.warning("%s", warning)
    return found


def _partitions(
    options: Options, spans: Mapping[Key, Span | None], found: Found | None = None
) -> list[InputPartition]:
    """Partitions in the order in which Spark is to start them. Raises UnreadError or SinkError."""
    sizes: dict[Key, int] = {}
    if options.report_path is not None:
        last = reports.read_reports(options.report_path, options.settings, last=True)
        sizes = reports.sizes(last)
    run = new_run()
    if found is not None:
        read.check_found(options, found, run)
    parts = make_parts(spans, sizes, options.parts, run)
    return [InputPartition(part) for part in parts] or [InputPartition(None)]


def _read(options: Options, partition: InputPartition) -> Iterator[Any]:
    """What one task reads; of nothing Spark makes one partition too."""
    if partition.value is None:
        return iter(())
    context = TaskContext.get()
    attempt = "0" if context is None else str(context.taskAttemptId())
    return read.read_part(options, partition.value, attempt)


def _struct(columns: tuple[Column, ...]) -> StructType:
    return StructType.fromJson(orjson.loads(spark_schema.render("", columns)))


def _asked(columns: tuple[Column, ...], schema: StructType) -> tuple[Column, ...]:
    """Those of ``columns`` that ``schema`` names: one given by the user may leave some out."""
    types = {field.name: field.dataType.simpleString() for field in _struct(columns)}
    for field in schema:
        given = field.dataType.simpleString()
        if types.get(field.name, given) != given:
            raise ConfigurationError(
                f"The column {field.name} is {types[field.name]}, not {given}."
            )
    return select(columns, tuple(schema.fieldNames()))
