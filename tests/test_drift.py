"""The table against the SDK's own model of the service, and against the table's schema file.

When one of these fails after an upgrade of botocore, AWS has added or changed a member: map it
with a column if the table's schema has one for it, and otherwise name it in the table's
``left_out``. If instead it says that the model lacks a member, botocore is too old for the table.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest

from collector.model import Column, Type
from collector.tables import load_table

TABLE = load_table()
SCHEMA_FILE = Path(__file__).parent / "data" / f"{TABLE.name}.json"

SCALARS = {
    "string": Type.STRING,
    "integer": Type.INT32,
    "long": Type.INT64,
    "float": Type.FLOAT,
    "double": Type.FLOAT,
    "boolean": Type.BOOLEAN,
    "timestamp": Type.TIMESTAMP,
    "structure": Type.STRUCT,
}


def type_of(shape):
    """The column type that fits a botocore shape, or None where the record has none."""
    match shape.type_name:
        case "map" if shape.key.type_name == shape.value.type_name == "string":
            return Type.MAP_STRING_STRING
        case "list" if shape.member.type_name == "string":
            return Type.LIST_STRING
        case "list" if shape.member.type_name == "structure":
            return Type.LIST_STRUCT
        case name:
            return SCALARS.get(name)


def drift(columns, shape, left_out, above="") -> Iterator[str]:
    """A sentence for each difference between columns and a structure's members."""
    mapped = {column.provider: column for column in columns if column.provider}
    for name, member in shape.members.items():
        path = above + name
        if path in left_out:
            if name in mapped:
                yield f"{path} is mapped and left out"
        elif name not in mapped:
            yield f"{path} ({member.type_name}) is neither mapped nor left out"
        elif mapped[name].type is not type_of(member):
            yield f"{path} is {mapped[name].type} here and {member.type_name} in the model"
        elif mapped[name].fields:
            inner = member.member if member.type_name == "list" else member
            yield from drift(mapped[name].fields, inner, left_out, f"{path}.")
    yield from (f"the model lacks {above}{name}" for name in mapped.keys() - shape.members.keys())


def lacking(shape, left_out) -> Iterator[str]:
    """The left-out paths that the model does not have."""
    for path in left_out:
        at = shape
        for name in path.split("."):
            at = at.member if at.type_name == "list" else at
            at = getattr(at, "members", {}).get(name)
            if at is None:
                yield f"the model lacks {path}, which is left out"
                break


def triples(columns: tuple[Column, ...], above="") -> Iterator[tuple[str, str, str | None]]:
    for column in columns:
        yield above + column.name, column.type.value, column.provider
        yield from triples(column.fields, f"{above}{column.name}.")


def file_triples(fields, above="") -> Iterator[tuple[str, str, str | None]]:
    for field in fields:
        yield above + field["name"], field["type"], field["provider"]
        yield from file_triples(field.get("fields", ()), f"{above}{field['name']}.")


@pytest.fixture(scope="module")
def model():
    return botocore.session.Session().get_service_model(TABLE.service)


@pytest.fixture(scope="module")
def answer(model):
    return model.operation_model(TABLE.describe.name).output_shape


def test_every_member_is_mapped_or_left_out(answer):
    """Each member that DescribeTrainingJob can return has a fitting column or is left out."""
    assert list(drift(TABLE.columns, answer, TABLE.left_out)) == []


def test_nothing_is_left_out_that_does_not_exist(answer):
    """The list of left-out members names real ones only, and is sorted."""
    assert list(lacking(answer, TABLE.left_out)) == []
    assert sorted(TABLE.left_out) == list(TABLE.left_out)


def test_the_table_is_the_schema_files():
    """All 155 fields have the name, type, provider name and place of the schema file."""
    content = json.loads(SCHEMA_FILE.read_text("utf-8"))
    expected = list(file_triples(content["columns"]))
    assert content["table"] == TABLE.name
    assert (len(content["columns"]), len(expected)) == (45, 155)
    assert list(triples(TABLE.columns)) == expected


def test_every_field_is_described():
    """No column is without a sentence for the people who read the schema."""
    assert [column.name for column in flat(TABLE.columns) if not column.description] == []


def flat(columns):
    for column in columns:
        yield column
        yield from flat(column.fields)


def test_operations_take_and_return_what_the_table_names(model, answer):
    """Request parameters, the lists in answers and the mandatory members all exist."""
    listing = model.operation_model(TABLE.list.name)
    page = {TABLE.list.page_size_param, TABLE.list.created_after, TABLE.list.created_before}
    assert page | {TABLE.list.status, *TABLE.list.params} <= set(listing.input_shape.members)
    summary = listing.output_shape.members[TABLE.list.items].member.members
    assert {TABLE.arn, TABLE.created, TABLE.modified, TABLE.status} <= set(summary)

    describe = model.operation_model(TABLE.describe.name)
    assert set(TABLE.describe.params) <= set(describe.input_shape.members)
    assert set(describe.input_shape.required_members) <= set(TABLE.describe.params)
    assert set(TABLE.describe.params.values()) <= set(summary)
    assert {TABLE.arn, TABLE.created, TABLE.modified, TABLE.status} <= set(answer.members)
    assert set(TABLE.describe.required) <= set(answer.members)

    tags = model.operation_model(TABLE.tags.name)
    assert {TABLE.tags.arn_param, TABLE.tags.page_size_param} <= set(tags.input_shape.members)
    assert set(tags.output_shape.members[TABLE.tags.items].member.members) == {"Key", "Value"}


def test_page_sizes_are_allowed(model):
    """Pages are as long as the service allows, and no longer."""
    for operation in (TABLE.list, TABLE.tags):
        shape = model.operation_model(operation.name).input_shape
        limits = shape.members[operation.page_size_param].metadata
        assert limits["min"] <= operation.page_size <= limits.get("max", operation.page_size)


def test_list_parameters_have_allowed_values(model):
    """The order of listing is one that the service knows."""
    members = model.operation_model(TABLE.list.name).input_shape.members
    assert all(value in members[name].enum for name, value in TABLE.list.params.items())


def test_statuses_are_the_models(answer):
    """The table knows every state a job can be in, and which of them are final."""
    assert set(TABLE.statuses) == set(answer.members[TABLE.status].enum)
    assert set(TABLE.terminal) < set(TABLE.statuses)


def test_sensitive_names_columns():
    """What may carry secrets is named as the columns are."""
    assert set(TABLE.sensitive) <= {column.name for column in TABLE.columns}


def without(columns, path):
    """``columns`` less the one whose dotted provider path is ``path``."""
    name, _, rest = path.partition(".")
    return tuple(
        dataclasses.replace(column, fields=without(column.fields, rest))
        if column.provider == name
        else column
        for column in columns
        if column.provider != name or rest
    )


@pytest.mark.parametrize(
    "path",
    ["RoleArn", "VpcConfig.Subnets", "InputDataConfig.DataSource.S3DataSource.S3Uri"],
)
def test_a_member_without_a_column_is_seen(answer, path):
    """The check finds a member that lost its column, at any depth and through lists."""
    (found,) = drift(without(TABLE.columns, path), answer, TABLE.left_out)
    assert found == f"{path} {found.partition(' ')[2]}"
    assert found.endswith("is neither mapped nor left out")


def test_a_new_member_is_seen(answer):
    """The check finds a member that the model has and the table has not heard of."""
    known = [path for path in TABLE.left_out if path != "MlflowConfig"]
    assert list(drift(TABLE.columns, answer, known)) == [
        "MlflowConfig (structure) is neither mapped nor left out"
    ]


def test_a_wrong_type_is_seen(answer):
    """The check finds a column whose type is not the member's."""
    doctored = tuple(
        dataclasses.replace(column, type=Type.INT64) if column.provider == "RoleArn" else column
        for column in TABLE.columns
    )
    assert list(drift(doctored, answer, TABLE.left_out)) == [
        "RoleArn is INT64 here and string in the model"
    ]


def test_an_invented_column_is_seen(answer):
    """The check finds a column that reads a member AWS does not have."""
    invented = Column("colour", Type.STRING, "Colour")
    found = list(drift((*TABLE.columns, invented), answer, TABLE.left_out))
    assert found == ["the model lacks Colour"]


def test_a_member_both_mapped_and_left_out_is_seen(answer):
    """The check finds a left-out member that has a column all the same."""
    found = list(drift(TABLE.columns, answer, (*TABLE.left_out, "RoleArn")))
    assert found == ["RoleArn is mapped and left out"]


@pytest.mark.parametrize("path", ["Colour", "VpcConfig.Colour", "RoleArn.Colour"])
def test_an_invented_omission_is_seen(answer, path):
    """The check finds a left-out path that the model does not have."""
    assert list(lacking(answer, (path,))) == [f"the model lacks {path}, which is left out"]


def test_a_moved_field_is_seen():
    """Comparing the table with its schema file notices order, not content alone."""
    first, second, *rest = TABLE.columns
    expected = list(file_triples(json.loads(SCHEMA_FILE.read_text("utf-8"))["columns"]))
    assert list(triples((second, first, *rest))) != expected
