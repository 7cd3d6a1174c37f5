"""Answers that nobody expects: every record stays a valid line, and what was changed is counted."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from harness import assert_accounted, assert_sums, assert_whole, crawl, run_command
from reference import COLUMNS, NAMES, record_of

from collector.redact import MASK
from collector.tables import load_table
from collector.testing import Estate, FakeAws, protocols
from collector.testing.world import AwsError
from collector.validate import validate_lines

ACCOUNT, REGION = "111111111111", "us-east-1"
DESCRIBE, BULK = ("sagemaker", "DescribeTrainingJob"), ("tagging", "GetResources")
JOBS = 6
TABLE = load_table()
FORMATS = (
    "%s",
    "%(password)s",
    "%n%n",
    "{0}",
    "{}",
    "{__class__}",
    "{0.__class__.__mro__}",
    "${A}",
)

pytestmark = pytest.mark.usefixtures("at_full_speed")


class Odd:
    """An estate of a few ordinary jobs, some of which are described in words of the test's own."""

    def __init__(self) -> None:
        self.estate = Estate.generate(1, (REGION,), JOBS)
        self.names = list(self.estate.jobs(ACCOUNT, REGION))
        self.bodies: dict[str, bytes | AwsError] = {}
        self.asked: Counter[str] = Counter()

    def answer(self, name: str) -> dict[str, Any]:
        return self.estate.describe(ACCOUNT, REGION, name)

    def says(self, name: str, **members: Any) -> dict[str, Any]:
        """Put ``members`` into the description of a job; the whole of it."""
        answer = self.answer(name) | members
        # Not orjson: it writes no half of a surrogate pair.
        self.bodies[name] = json.dumps(answer).encode()
        return answer

    def others(self) -> list[str]:
        return [name for name in self.names if name not in self.bodies]


@pytest.fixture
def odd(monkeypatch) -> Odd:
    odd = Odd()
    ours = protocols.HANDLERS[DESCRIBE]

    def describe(world, call):
        name = call.params["TrainingJobName"]
        odd.asked[name] += 1
        body = odd.bodies.get(name)
        if isinstance(body, AwsError):
            raise body
        return ours(world, call) if body is None else body

    monkeypatch.setitem(protocols.HANDLERS, DESCRIBE, describe)
    return odd


def assert_valid(records: Iterable[dict[str, Any]], *, extra: bool = False) -> None:
    """Each record is one line, and keeps every rule of the table."""
    lines = [orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records]
    assert lines
    assert all(line.count(b"\n") == 1 for line in lines)
    assert list(validate_lines(TABLE, lines, extra=extra)) == []


def by_name(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record["training_job_name"]: record for record in records}


def assert_others(odd: Odd, records: Iterable[dict[str, Any]]) -> None:
    """The ordinary jobs are as they ever were."""
    found = by_name(records)
    for name in odd.others():
        assert found[name] == record_of(odd.estate, ACCOUNT, REGION, name)


# --- size and depth -----------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["", "\ud800"], ids=["whole", "mended"])
async def test_megabytes_in_one_answer_are_carried_through(odd, half):
    """A map and a text of 20 MB each arrive as they are; every other job does too."""
    many, long, last = odd.names[:3]
    hyper = {f"key-{number}": "v" * 90 for number in range(200_000)}
    odd.says(many, HyperParameters=hyper | {"half": half})
    odd.says(
        long, FailureReason="x\u2028" * 4_000_000 + half, HyperParameters={"a": "y" * 8_000_000}
    )
    odd.says(last, InputDataConfig=[{"ChannelName": "c"}] * 100_000)
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_valid(run.records)
    assert_others(odd, run.records)
    found = by_name(run.records)
    assert found[many]["hyper_parameters"] == hyper | {"half": half and "\ufffd"}
    assert len(found[long]["failure_reason"]) == 8_000_000 + len(half)
    assert len(found[last]["input_data_config"]) == 100_000
    paths = ["failure_reason", "hyper_parameters{}"]
    assert run.report["coerced"].items() >= (dict.fromkeys(paths, 1) if half else {}).items()


async def test_megabytes_are_masked_without_being_looked_through(odd):
    """Redaction of a value of megabytes takes no time to speak of, and lets none of it out."""
    odd.says(odd.names[0], Environment={"A": "a" * 20_000_000, "B": "plain", "C": "eyJ" * 10_000})
    async with FakeAws(odd.estate) as aws:
        began = time.monotonic()
        run = await crawl(aws, redact={"environment": "matching"})
    assert time.monotonic() - began < 20
    assert_whole(run, aws)
    environment = by_name(run.records)[odd.names[0]]["environment"]
    assert environment == {"A": MASK, "B": "plain", "C": "eyJ" * 10_000}


def nested(levels: int) -> Any:
    value: Any = "x"
    for number in range(levels):
        value = [value] if number % 2 else {"a": value}
    return value


@pytest.mark.parametrize("extra", ["drop", "keep"])
async def test_depth_in_an_unknown_member_harms_nobody(odd, extra):
    """Up to what a parser reads: the record is valid, and what cannot be written is counted."""
    deep, shallow = odd.names[:2]
    odd.says(deep, Zeta=nested(900), VpcConfig={"Subnets": [], "Vlan": nested(900)})
    odd.says(shallow, Zeta=nested(100))
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws, extra=extra)
    assert_whole(run, aws)
    assert_valid(run.records, extra=extra == "keep")
    assert run.report["schema_drift"].items() >= {"Zeta": 2, "VpcConfig.Vlan": 1}.items()
    found = by_name(run.records)
    if extra == "keep":
        kept_out = {"_extra.Zeta": 1, "_extra.VpcConfig.Vlan": 1}
        assert run.report["coerced"].items() >= kept_out.items()
        assert found[deep]["_extra"].keys().isdisjoint({"Zeta", "VpcConfig"})
        assert found[shallow]["_extra"]["Zeta"] == nested(100)
    assert found[deep]["vpc_config"] == {"subnets": []}


@pytest.mark.parametrize("levels", [5_000, 1_000_000])
async def test_depth_that_nobody_can_read_fails_that_job_by_name(odd, levels):
    """Asked for once, and named with the reason; the rest of its target is whole."""
    deep = odd.names[2]
    body = json.dumps(odd.answer(deep)).encode()
    odd.bodies[deep] = body[:-1] + b', "Zeta": ' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_accounted(run, aws)
    assert_others(odd, run.records)
    (failure,) = run.report["failures"]
    assert failure["arn"].endswith(f"/{deep}")
    assert "TooDeep" in failure["error"]
    assert failure["attempts"] == odd.asked[deep] == 1
    assert run.outcomes == {(ACCOUNT, REGION): "partial"}
    assert run.status == 3


# --- types --------------------------------------------------------------------------------------

KEPT = {"training_job_name", "training_job_arn", "creation_time"}
"""By these the harness tells jobs apart."""

WRONG: dict[str, tuple[Any, ...]] = {
    "STRING": (5, ["x"], {"a": "b"}, True),
    "BOOLEAN": ("true", 1, [], {}),
    "INT32": ("5", 2**31, 1.5, {}),
    "INT64": ("5", 2**63, 1.5, [1]),
    "FLOAT": ("1.5", {}, True, "nan"),
    "TIMESTAMP": ({"seconds": 1}, [1.7e9], "soon", True),
    "STRUCT": ("x", [{}], 5, False),
    "MAP_STRING_STRING": (["a"], "{}", 5, True),
    "UNORDERED_LIST_STRING": ("x", {"0": "x"}, 5, True),
    "UNORDERED_LIST_STRUCT": ({}, "[]", 5, True),
}
"""Values that are none of a type; structures of the right type with wrong insides come apart."""


def wrong(column: dict[str, Any], number: int) -> Any:
    """A value that this column must not take."""
    choices = WRONG[column["type"]]
    return choices[number % len(choices)]


def wrong_inside(column: dict[str, Any], number: int, path: str) -> tuple[Any, list[str]]:
    """A value all of whose leaves are wrong, and the paths to them."""
    kind = column["type"]
    if kind in {"STRUCT", "UNORDERED_LIST_STRUCT"}:
        path += "[]" if kind != "STRUCT" else ""
        struct, paths = {}, []
        for field in column["fields"]:
            name = f"{path}.{field['name']}"
            struct[field["provider"]], more = wrong_inside(field, number, name)
            paths += more
        if kind == "STRUCT":
            return struct, paths
        return [struct, "x", 5], [*paths, path, path]
    if kind == "MAP_STRING_STRING":
        return {"a": 5, "b": ["x"], "c": {"d": "e"}, "f": None}, [path + "{}"] * 4
    if kind == "UNORDERED_LIST_STRING":
        return [5, None, ["x"], {"d": "e"}], [path + "[]"] * 4
    return wrong(column, number), [path]


async def test_wrong_types_are_kept_out_and_counted(odd):
    """A value that is not of its column's type is null, and counted under the column's name."""
    counted: Counter[str] = Counter()
    columns = [column for column in COLUMNS if column["provider"] and column["name"] not in KEPT]
    for number, name in enumerate(odd.names):
        members = {column["provider"]: wrong(column, number) for column in columns}
        odd.says(name, **members)
        counted.update(column["name"] for column in columns)
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_valid(run.records)
    assert run.report["coerced"] == counted
    for record in run.records:
        assert list(record) == NAMES
        values = {name for name, value in record.items() if value is not None}
        assert values == KEPT | {"account_id", "tags"}


async def test_wrong_types_deep_inside_are_kept_out_and_counted(odd):
    """The same holds of every field of every structure: what is left are empty ones."""
    counted: Counter[str] = Counter()
    columns = [column for column in COLUMNS if column["provider"] and column["name"] not in KEPT]
    for number, name in enumerate(odd.names):
        members = {}
        for column in columns:
            members[column["provider"]], paths = wrong_inside(column, number, column["name"])
            counted.update(paths)
        odd.says(name, **members)
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_valid(run.records)
    assert run.report["coerced"] == counted
    assert len(counted) > 120
    assert {str(record["vpc_config"]) for record in run.records} == {
        "{'security_group_ids': [], 'subnets': []}"
    }


async def test_what_tells_jobs_apart_may_be_of_a_wrong_type_too(odd):
    """Even name, ARN and time of a description may be nonsense: the job is emitted and counted."""
    odd.says(odd.names[0], TrainingJobName=["x"], TrainingJobArn={}, CreationTime={"at": "noon"})
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_valid(run.records)
    assert run.report["totals"]["emitted"] == len(run.records) == JOBS
    assert run.report["coerced"].items() >= dict.fromkeys(KEPT, 1).items()
    assert run.status == 0


# --- text ---------------------------------------------------------------------------------------

CONTROLS = "".join(
    map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, 0xFEFF, 0xFFFF])
)
NASTY = (
    CONTROLS,
    "\x00",
    "\r\n",
    "\u2028",
    "\u202e",
    '"\\',
    "\x1b[31m",
    "\U0001f600",
    "</script>",
    "",
)


def mend(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def test_no_text_breaks_a_line(odd, tmp_path):
    """Control characters, separators and NUL are data: each record is one line, and exact."""
    name, halves = odd.names[:2]
    hyper = {f"{number}{text}": text for number, text in enumerate(NASTY)}
    odd.says(name, HyperParameters=hyper, FailureReason=CONTROLS, Environment={t: t for t in NASTY})
    broken = {"a\ud800": "b", "c": "\udc00", "d\ud800\ud801": "\udfff", "e": "🙂"}
    odd.says(
        halves,
        HyperParameters=broken,
        FailureReason="\ud83d",
        VpcConfig={"Subnets": ["\ud800", "fine"], "SecurityGroupIds": []},
    )
    run, records = to_file(odd, tmp_path)
    assert run.status == 0
    found = by_name(records)
    assert found[name]["hyper_parameters"] == hyper
    assert found[name]["failure_reason"] == CONTROLS
    assert found[name]["environment"] == {text: text for text in NASTY}
    assert found[halves]["hyper_parameters"] == {mend(k): mend(v) for k, v in broken.items()}
    assert found[halves]["failure_reason"] == "\ufffd"
    assert found[halves]["vpc_config"] == {"subnets": ["\ufffd", "fine"], "security_group_ids": []}
    counted = {"failure_reason": 1, "hyper_parameters{}": 3, "vpc_config.subnets[]": 1}
    assert run.report["coerced"].items() >= counted.items()
    assert_others(odd, records)


def to_file(odd: Odd, folder: Path, *args: str):
    """`collector run` into a file: the run, and the records by the lines of that file."""
    path = folder / "out.ndjson"
    with FakeAws(odd.estate).in_thread() as aws:
        run = run_command(aws, folder, "--sink", str(path), *args)
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert run.report["totals"]["emitted"] == len(lines)
    assert list(validate_lines(TABLE, [line + b"\n" for line in lines])) == []
    run.records = [json.loads(line) for line in lines]
    assert_sums(run)
    assert "Traceback" not in run.stderr
    return run, run.records


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_texts_that_look_like_formats_stay_texts(odd, tmp_path, log_format):
    """In keys, values, unknown members and AWS's own errors: nobody fills the placeholders in."""
    name, failing, _ = odd.names[:3]
    values = {text: text for text in FORMATS}
    odd.says(name, HyperParameters=values, Environment=values, FailureReason="%s {0}", **values)
    message = " ".join(FORMATS)
    odd.bodies[failing] = AwsError("ValidationException", message)
    run, records = to_file(odd, tmp_path, "--log-format", log_format, "--log-level", "debug")
    found = by_name(records)[name]
    assert found["hyper_parameters"] == found["environment"] == values
    assert found["failure_reason"] == "%s {0}"
    assert run.report["schema_drift"].items() >= dict.fromkeys(FORMATS, 1).items()
    (failure,) = run.report["failures"]
    assert f"ValidationException: {message}" in failure["error"]
    assert message in run.stderr
    assert "--- Logging error ---" not in run.stderr
    assert run.status == 3


def test_errors_cannot_paint_the_terminal(odd, tmp_path):
    """Escape sequences, line ends and the like in AWS's error are in neither log nor report."""
    text = f"\x1b[2J\x1b]0;owned\x07one{CONTROLS}two\u202ethree" + "x" * 100_000
    odd.bodies[odd.names[0]] = AwsError("ValidationException", text)
    run, _ = to_file(odd, tmp_path, "--log-format", "console")
    (failure,) = run.report["failures"]
    for shown in (failure["error"], run.stderr):
        assert re.search("one +two three", shown)
        assert not set(shown) & (set(CONTROLS + "\u202e") - {"\n"})
        assert "owned" not in shown
    assert "\n" not in failure["error"]
    assert len(failure["error"]) < 1_000


async def test_unknown_members_of_any_name_are_counted(odd):
    """Whatever AWS may add, and however it is called, it is counted and harms nothing."""
    unknown = {
        "Brand New": 1,
        "": {"a": []},
        "a.b": None,
        "ключ": "x",
        "\x00\u2028": [1],
        "__proto__": 0,
    }
    odd.says(odd.names[0], **unknown, VpcConfig={"Subnets": ["s"], "Vlan": {"Id": 1}})
    for keep in ("drop", "keep"):
        async with FakeAws(odd.estate) as aws:
            run = await crawl(aws, extra=keep)
        assert_whole(run, aws)
        assert_valid(run.records, extra=keep == "keep")
        wanted = {name: 1 for name, value in unknown.items() if value is not None}
        assert run.report["schema_drift"].items() >= (wanted | {"VpcConfig.Vlan": 1}).items()
    kept = by_name(run.records)[odd.names[0]]["_extra"]
    assert kept.items() >= {name: unknown[name] for name in wanted}.items()
    assert kept["VpcConfig"] == {"Vlan": {"Id": 1}}


async def test_tags_that_are_no_text_are_counted(odd, monkeypatch):
    """Half a surrogate pair in a tag is counted as a tag's, and the tag is there."""
    arn = odd.estate.job(ACCOUNT, REGION, odd.names[0]).arn
    item = {"ResourceARN": arn, "Tags": [{"Key": "a\ud800", "Value": "b"}]}
    body = json.dumps({"ResourceTagMappingList": [item], "PaginationToken": ""}).encode()
    monkeypatch.setitem(protocols.HANDLERS, BULK, lambda *_: body)
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_valid(run.records)
    assert by_name(run.records)[odd.names[0]]["tags"] == ["a\ufffd:b"]
    assert run.report["coerced"]["tags[]"] == 1


# --- what is refused ----------------------------------------------------------------------------


async def test_jobs_that_are_denied_last_do_not_deny_their_target(odd):
    """A policy may except some jobs, and those may come last: the list, asked again, says so."""
    for name in odd.names[-2:]:
        odd.bodies[name] = AwsError("AccessDeniedException", "not this one")
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_accounted(run, aws)
    assert_others(odd, run.records)
    assert list(run.outcomes.values()) == ["partial"]
    assert aws.calls["ListTrainingJobs"] == 2
    assert run.status == 3


# --- keys that run out --------------------------------------------------------------------------


async def test_a_session_that_ends_in_mid_run_says_what_to_do(odd):
    """Static session keys that ran out, and none newer: each job left is named, with advice."""
    for name in odd.names[2:]:
        odd.bodies[name] = AwsError("ExpiredTokenException", "The security token is expired")
    async with FakeAws(odd.estate) as aws:
        run = await crawl(aws)
    assert_accounted(run, aws)
    assert_others(odd, run.records)
    assert len(run.report["failures"]) == JOBS - 2
    for failure in run.report["failures"]:
        assert "ExpiredTokenException" in failure["error"]
        assert "renew them" in failure["error"]
        assert "run the same command again" in failure["error"]
    assert run.status == 3
