"""Amazon Athena (and Hive): an external table over NDJSON in S3."""

from __future__ import annotations

from collector.model import Column, Type
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


def render(name: str, columns: tuple[Column, ...]) -> str:
    """``CREATE EXTERNAL TABLE``, with a place for the bucket and prefix to be filled in.

    ``_extra`` is left out: the SerDe reads no object into a string, and skips keys that are not
    columns.
    """
    declared = ",\n".join(
        f"  `{column.name}` {_type(column)}" for column in columns if not is_free_form(column)
    )
    # The pattern holds single quotes, hence the double ones around the properties.
    return (
        f"CREATE EXTERNAL TABLE `{name}` (\n{declared}\n)\n"
        f"ROW FORMAT SERDE '{_SERDE}'\n"
        f'WITH SERDEPROPERTIES ("timestamp.formats" = "{_TIMESTAMP_FORMAT}")\n'
        "LOCATION 's3://BUCKET/PREFIX/';"
    )


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
