"""Amazon Athena (and Hive): an external table over the objects of a sink, and a view of its rows.

The layout is that of `collector.sinks.objects`: a folder a table, in it one a day, in it one a run.
"""

from __future__ import annotations

from collector.model import Column, Table, Type
from collector.schema.columns import is_free_form

_SIMPLE = {
    Type.STRING: "string",
    Type.INT32: "int",
    Type.INT64: "bigint",
    Type.FLOAT: "double",
    Type.BOOLEAN: "boolean",
    Type.TIMESTAMP: "timestamp",
    Type.LIST_STRING: "array<string>",
    Type.MAP_STRING_STRING: "map<string,string>",
}

# Hive's own SerDe, not OpenX's. OpenX takes keys without regard to case unless told otherwise, so
# two environment variables that differ in case only would become one, and Athena's page on it
# warns of rows and values that vary from query to query and recommends Hive's.
_SERDE = "org.apache.hive.hcatalog.data.JsonSerDe"

# By itself that SerDe reads `2023-11-14 22:13:20.123` and ISO times without a zone; it fails on
# the `Z`. With this Joda pattern the `Z` is a literal and the rest a time without a zone, which
# Athena takes as UTC, as it is.
_TIMESTAMP_FORMAT = "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'"


# Days can be counted, so Athena needs not be told of each new one. Runs cannot: their folders are
# below a day's, which Athena reads with all that is in it.
_DAYS = {
    "projection.enabled": "true",
    "projection.dt.type": "date",
    "projection.dt.format": "yyyy-MM-dd",
    "projection.dt.range": "NOW-3YEARS,NOW",
}


def render(name: str, columns: tuple[Column, ...]) -> str:
    """``CREATE EXTERNAL TABLE``, with a place for the bucket and prefix to be filled in.

    ``_extra`` is left out: the SerDe reads no object into a string, and skips keys that are not
    columns.
    """
    declared = ",\n".join(f"  `{column.name}` {_type(column)}" for column in _readable(columns))
    days = ",\n".join(f"  '{key}' = '{value}'" for key, value in _DAYS.items())
    # The pattern holds single quotes, hence the double ones around the properties.
    return (
        f"CREATE EXTERNAL TABLE `{name}` (\n{declared}\n)\n"
        "PARTITIONED BY (`dt` string)\n"
        f"ROW FORMAT SERDE '{_SERDE}'\n"
        f'WITH SERDEPROPERTIES ("timestamp.formats" = "{_TIMESTAMP_FORMAT}")\n'
        f"LOCATION 's3://BUCKET/PREFIX/table={name}/'\n"
        f"TBLPROPERTIES (\n{days}\n);"
    )


def render_latest(table: Table, columns: tuple[Column, ...]) -> str:
    """``CREATE VIEW`` with the newest record of each job that any run has written.

    Runs are named after their start, so the last path is the newest one. A run that was cut off
    counts too: what it has written is whole, and Athena could not see its manifest anyway.
    """
    names = [column.name for column in _readable(columns)]
    given = {column.provider: column.name for column in columns}
    job = ", ".join(f'"{given[member]}"' for member in (table.arn, table.created))
    selected = ",\n".join(f'  "{name}"' for name in [*names, "dt"])
    lines = [
        f'CREATE OR REPLACE VIEW "{table.name}_latest" AS',
        "SELECT",
        selected,
        "FROM (",
        f'  SELECT *, row_number() OVER (PARTITION BY {job} ORDER BY "$path" DESC) AS newest',
        f'  FROM "{table.name}"',
        ") AS records",
        "WHERE newest = 1;",
    ]
    return "\n".join(lines)


def _readable(columns: tuple[Column, ...]) -> list[Column]:
    return [column for column in columns if not is_free_form(column)]


def _type(column: Column) -> str:
    if column.type is Type.STRUCT:
        return _struct(column.fields)
    if column.type is Type.LIST_STRUCT:
        return f"array<{_struct(column.fields)}>"
    return _SIMPLE[column.type]


def _struct(fields: tuple[Column, ...]) -> str:
    # Backticks here too: a member may be called what the grammar reserves.
    members = ",".join(f"`{member.name}`:{_type(member)}" for member in fields)
    return f"struct<{members}>"
