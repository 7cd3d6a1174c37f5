"""A table's columns as other tools declare them: one module a format, all pure functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from collector.errors import ConfigurationError
from collector.model import Column, Table
from collector.schema import arrow, athena, bigquery, duckdb, json_schema, markdown, spark
from collector.schema.arrow import arrow_schema
from collector.schema.columns import all_columns

__all__ = ["FORMATS", "all_columns", "arrow_schema", "render"]

_RENDERERS: dict[str, Callable[[str, tuple[Column, ...]], str]] = {
    "json-schema": json_schema.render,
    "arrow": arrow.render,
    "spark": spark.render,
    "athena": athena.render,
    "bigquery": bigquery.render,
    "duckdb": duckdb.render,
    "markdown": markdown.render,
}

_LATEST = "athena-latest"

FORMATS: tuple[str, ...] = (*_RENDERERS, _LATEST)


def render(table: Table, fmt: str, *, extra: bool = False, meta: bool = False) -> str:
    """``table`` declared in ``fmt`` (one of FORMATS), as text that ends with a newline.

    ``extra`` and ``meta`` add the columns that the settings of those names add to a record.
    Raises ConfigurationError for a format that does not exist.
    """
    if fmt not in FORMATS:
        near = difflib.get_close_matches(fmt, FORMATS, 1)
        hint = f"did you mean {near[0]}" if near else f"known are {', '.join(FORMATS)}"
        raise ConfigurationError(f"There is no schema format {fmt!r}: {hint}.")
    columns = all_columns(table, extra=extra, meta=meta)
    if fmt == _LATEST:  # a view needs to know what makes a job one job
        return athena.render_latest(table, columns) + "\n"
    return _RENDERERS[fmt](table.name, columns) + "\n"
