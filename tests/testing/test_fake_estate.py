import time
from collections import Counter
from itertools import pairwise

import orjson
import pytest

from collector.model import Column, Table
from collector.model import Type as ColumnType
from collector.tables import load_table
from collector.testing import Estate

A, B = "111111111111", "222222222222"
EAST = "us-east-1"
REQUIRED = {
    "TrainingJobName",
    "TrainingJobArn",
    "ModelArtifacts",
    "TrainingJobStatus",
    "SecondaryStatus",
    "StoppingCondition",
    "CreationTime",
    "AlgorithmSpecification",
    "ResourceConfig",
}


@pytest.fixture(scope="module")
def estate():
    return Estate.generate(1, (EAST,))


@pytest.fixture(scope="module")
def answers(estate):
    return [estate.describe(A, EAST, name) for name in estate.jobs(A, EAST)]


def seen(columns: tuple[Column, ...], value: dict, prefix: str, found: set[str]):
    for column in columns:
        if column.provider in value:
            path = f"{prefix}{column.name}"
            found.add(path)
            inner = value[column.provider]
            for item in inner if column.type is ColumnType.LIST_STRUCT else [inner]:
                if column.fields:
                    seen(column.fields, item, f"{path}.", found)


def every(columns: tuple[Column, ...], prefix: str = ""):
    for column in columns:
        if column.provider:
            yield f"{prefix}{column.name}"
            yield from every(column.fields, f"{prefix}{column.name}.")


def test_every_field_is_present_in_some_jobs_and_absent_in_others(answers):
    """200 jobs show all of the table's fields, and miss each that the API lets them miss."""
    table = load_table()
    counts = Counter()
    for answer in answers:
        found: set[str] = set()
        seen(table.columns, answer, "", found)
        counts.update(found)
    paths = set(every(table.columns))
    assert len(paths) + 2 == 155
    assert set(counts) == paths
    always = {path for path, count in counts.items() if count == len(answers)}
    assert always == {
        "algorithm_specification",
        "algorithm_specification.training_input_mode",
        "creation_time",
        "model_artifacts",
        "model_artifacts.s3_model_artifacts",
        "resource_config",
        "resource_config.volume_size_in_gb",
        "secondary_status",
        "stopping_condition",
        "training_job_arn",
        "training_job_name",
        "training_job_status",
    }


def test_answers_are_as_large_and_as_odd_as_real_ones(answers):
    """Size, timestamps, special floats, large integers, empty and non-ASCII members all occur."""
    size = sum(len(orjson.dumps(answer)) for answer in answers) / len(answers)
    assert 2_500 < size < 4_500
    assert all(answer.keys() >= REQUIRED for answer in answers)
    text = b"".join(orjson.dumps(answer) for answer in answers).decode()
    for oddity in ('"NaN"', '"Infinity"', '"-Infinity"', "922337203685477580", "größe_λ", "[]"):
        assert oddity in text
    assert any(answer.get("Environment") == {} for answer in answers)
    assert any(answer.get("HyperParameters") == {} for answer in answers)
    assert any("MlflowConfig" in answer for answer in answers)
    assert any("InstancePlacementConfig" in answer["ResourceConfig"] for answer in answers)
    assert "ZetaConfig" not in text


def test_times_tell_one_story(estate, answers):
    """No job ends before it starts, and what a list shows of it the description shows as well."""
    for answer in answers:
        terminal = answer["TrainingJobStatus"] in {"Completed", "Failed", "Stopped"}
        summary = estate.summary(A, EAST, answer["TrainingJobName"])
        assert summary["CreationTime"] <= summary["LastModifiedTime"] <= estate.now
        assert terminal <= ("TrainingEndTime" in summary)
        for member, value in summary.items():
            assert answer.get(member, value) == value
        times = [
            time
            for step in answer.get("SecondaryStatusTransitions", [])
            for time in (step["StartTime"], step.get("EndTime", step["StartTime"]))
        ]
        assert times == sorted(times)
        assert ("FailureReason" in answer) <= (answer["TrainingJobStatus"] == "Failed")


def test_all_states_occur_and_the_youngest_jobs_are_not_an_hour_old(estate):
    """Every status is there, over 400 days, with the last four jobs inside the last hour."""
    summaries = [estate.summary(A, EAST, name) for name in estate.jobs(A, EAST)]
    assert {summary["TrainingJobStatus"] for summary in summaries} == set(load_table().statuses)
    created = [summary["CreationTime"] for summary in summaries]
    assert created == sorted(created)
    assert sum(estate.now - when < 3600 for when in created) == 4
    assert estate.now - created[0] > 399 * 86_400


def test_jobs_share_milliseconds_and_seconds_across_page_boundaries():
    """Around a multiple of a hundred the neighbours share a second or even a millisecond."""
    estate = Estate.generate(1, (EAST,), 1200)
    created = [estate.summary(A, EAST, n)["CreationTime"] for n in estate.jobs(A, EAST)]
    assert created == sorted(created)
    assert created[99] == created[100]
    assert created[199] != created[200]
    assert int(created[199]) == int(created[200])
    assert max(Counter(created).values()) == 130


def test_the_same_arguments_give_the_same_estate():
    """Two estates are equal job for job; another seed, account or region gives other jobs."""
    one, two = Estate.generate(2, seed=7), Estate.generate(2, seed=7)
    names = list(one.jobs(B, "eu-west-1"))
    assert names == list(two.jobs(B, "eu-west-1"))
    for name in names[::10]:
        assert one.describe(B, "eu-west-1", name) == two.describe(B, "eu-west-1", name)
    others = (Estate.generate(2, seed=8).jobs(B, "eu-west-1"), one.jobs(A, "eu-west-1"))
    assert not any(set(names) & set(other) for other in others)


def test_half_a_million_jobs_cost_next_to_nothing():
    """A huge shelf is made and asked in no time, since nothing is kept for its jobs."""
    begun = time.process_time()
    estate = Estate.generate(1, (EAST,), 500_000)
    page = estate.shelf(A, EAST).slice(100, created_after=(estate.now - 86_400) * 1000)
    assert len(page) == 100
    assert estate.describe(A, EAST, page[50].name)["TrainingJobName"] == page[50].name
    assert estate.count(A, EAST) == 500_000
    assert time.process_time() - begun < 1


def test_tags_are_none_some_empty_and_too_many_for_one_page():
    """Jobs have no tags, a few, one without a value, or more than 50."""
    estate = Estate.generate(1, (EAST,))
    tags = [estate.tags(A, EAST, name) for name in estate.jobs(A, EAST)]
    sizes = Counter(map(len, tags))
    assert {0, 1, 2, 3, 55} == set(sizes)
    assert sizes[55] == 1
    assert any("" in tag.values() for tag in tags)
    assert any(":" in key for tag in tags for key in tag)


def test_a_name_can_be_deleted_and_used_again():
    """The new job of an old name has another creation time and its own place in the list."""
    estate = Estate.generate(1, (EAST,))
    name = next(iter(estate.jobs(A, EAST)))
    before = estate.summary(A, EAST, name)
    with pytest.raises(ValueError, match="already"):
        estate.add_job(A, EAST, name=name)
    estate.delete_job(A, EAST, name)
    with pytest.raises(KeyError):
        estate.describe(A, EAST, name)
    assert estate.count(A, EAST) == 199
    arn = estate.add_job(A, EAST, name=name, creation_time=estate.now - 60, tags={"a": "b"})
    assert arn == before["TrainingJobArn"]
    assert list(estate.jobs(A, EAST))[-1] == name
    assert estate.describe(A, EAST, name)["CreationTime"] == estate.now - 60
    assert estate.tags(A, EAST, name) == {"a": "b"}
    estate.delete_job(A, EAST, name)
    assert estate.count(A, EAST) == 199
    assert name not in estate.jobs(A, EAST)


def test_an_added_job_lies_where_its_creation_time_puts_it():
    """Jobs added between others are listed in order of time, up and down."""
    estate = Estate.generate(1, (EAST,), 10)
    middle = estate.summary(A, EAST, list(estate.jobs(A, EAST))[4])["CreationTime"]
    estate.add_job(A, EAST, name="zz", creation_time=middle)
    names = list(estate.jobs(A, EAST))
    assert names[5] == "zz"
    down = [job.name for job in estate.shelf(A, EAST).slice(99, descending=True)]
    assert down == names[::-1]
    assert estate.summary(A, EAST, "zz")["TrainingJobStatus"] == "Completed"


def test_an_updated_job_changes_everywhere_at_once():
    """A new status brings its times along, members are set and removed, tags leave no trace."""
    estate = Estate.generate(1, (EAST,))
    name = list(estate.jobs(A, EAST))[-1]
    created = estate.summary(A, EAST, name)["CreationTime"]
    assert estate.summary(A, EAST, name)["TrainingJobStatus"] == "InProgress"
    estate.now += 1000
    estate.update_job(A, EAST, name, TrainingJobStatus="Completed", HyperParameters={"k": "v"})
    for answer in (estate.summary(A, EAST, name), estate.describe(A, EAST, name)):
        assert answer["TrainingJobStatus"] == answer["SecondaryStatus"] == "Completed"
        assert answer["LastModifiedTime"] == answer["TrainingEndTime"] == estate.now
        assert answer["CreationTime"] == created
    assert estate.describe(A, EAST, name)["HyperParameters"] == {"k": "v"}
    modified = estate.now
    estate.now += 1000
    estate.update_job(A, EAST, name, tags={"new": ""})
    assert estate.tags(A, EAST, name) == {"new": ""}
    assert estate.summary(A, EAST, name)["LastModifiedTime"] == modified
    estate.update_job(A, EAST, name, HyperParameters=None, LastModifiedTime=modified + 1.5)
    assert "HyperParameters" not in estate.describe(A, EAST, name)
    assert estate.summary(A, EAST, name)["LastModifiedTime"] == modified + 1.5


def test_unknown_members_appear_on_request():
    """Members that no table has, at the top, inside and in lists, come with unknown_members."""
    estate = Estate.generate(1, (EAST,), unknown_members=True)
    text = orjson.dumps([estate.describe(A, EAST, n) for n in estate.jobs(A, EAST)]).decode()
    assert all(name in text for name in ("ZetaConfig", "FluxCapacity", "HoloLens"))


def test_any_table_gets_values():
    """Members of a table that nobody wrote values for are filled by their types."""
    columns = tuple(
        Column(kind.name.lower(), kind, f"X{kind.name.title()}", fields=(Column("y", kind, "Y"),))
        for kind in ColumnType
    )
    table = load_table()
    fields = {name: getattr(table, name) for name in Table.__slots__}
    estate = Estate.generate(1, (EAST,), table=Table(**{**fields, "columns": columns}))
    full = list(estate.jobs(A, EAST))[7]
    answer = estate.describe(A, EAST, full)
    assert answer.keys() >= {column.provider for column in columns}
    assert isinstance(answer["XInt64"], int)
    assert isinstance(answer["XFloat"], float)
    assert isinstance(answer["XMap_String_String"], dict)
    assert isinstance(answer["XList_Struct"][0], dict)


def test_the_organization_has_units_within_units_and_suspended_accounts():
    """Accounts lie in the root and in all units, and carry both State and Status."""
    estate = Estate.generate(4, (EAST,), 1, suspended=2)
    organization = estate.organization
    accounts = {account["Id"]: account for account in organization.accounts()}
    assert len(accounts) == 6
    assert [a["State"] for a in accounts.values()] == ["ACTIVE"] * 4 + ["SUSPENDED"] * 2
    assert all(a["State"] == a["Status"] for a in accounts.values())
    root = organization.roots()[0]["Id"]
    units = organization.units(root)
    assert len(units) == 2
    nested = [inner for unit in units for inner in organization.units(unit["Id"])]
    assert len(nested) == 1
    placed = [
        account["Id"]
        for place in (root, *(unit["Id"] for unit in units + nested))
        for account in organization.accounts(place)
    ]
    assert sorted(placed) == sorted(accounts)


def test_creation_never_runs_backwards_whatever_the_size():
    """Sizes around every special case keep the order of creation and of names."""
    for jobs in (0, 1, 4, 8, 9, 97, 101, 999, 1000, 3000):
        shelf = Estate.generate(1, (EAST,), jobs).shelf(A, EAST)
        keys = [job.key for job in shelf.slice(jobs + 1)]
        assert len(keys) == jobs
        assert all(first < second for first, second in pairwise(keys))
