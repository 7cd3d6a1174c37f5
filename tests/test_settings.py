"""Settings: layers, validators, and what a person is told of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from collector.errors import ConfigurationError
from collector.settings import Settings, load_settings, setting_fields, unknown_variables

TWO_IDS = ("111111111111", "222222222222")


@pytest.fixture
def file(tmp_path: Path):
    """Writes a settings file; its path."""

    def write(text: str) -> Path:
        path = tmp_path / "collector.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def complaints(text: str | None, file, flags=None, environ=None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(flags or {}, file=None if text is None else file(text), environ=environ)
    return str(caught.value).splitlines()


# --- layers ------------------------------------------------------------------------------------


def test_flags_win_over_environment_over_file_over_defaults(file):
    """Each layer is asked in turn; the first that has a setting decides."""
    path = file("headroom: 0.1\nmax_in_flight: 1\nsink: file.ndjson\ntags: none\n")
    environ = {"COLLECTOR_HEADROOM": "0.2", "COLLECTOR_MAX_IN_FLIGHT": "2", "COLLECTOR_SINK": "e"}
    found = load_settings({"headroom": 0.3, "max_in_flight": "3"}, file=path, environ=environ)
    assert (found.headroom, found.max_in_flight) == (0.3, 3)
    assert (found.sink, found.tags, found.extra) == (("e",), "none", "drop")
    found = load_settings({}, file=path, environ=environ)
    assert (found.headroom, found.max_in_flight) == (0.2, 2)
    assert load_settings({}, file=path).headroom == 0.1
    assert load_settings({}, file=file("")).model_dump() == Settings().model_dump()
    assert load_settings({}).headroom == 1.0


@pytest.mark.parametrize("layer", ["flag", "environment", "file"])
@pytest.mark.parametrize(
    "case",
    [
        ("accounts", "111111111111,222222222222", "['111111111111', 222222222222]", TWO_IDS),
        ("accounts", "current", "current", "current"),
        ("regions", "us-east-1, eu-west-1", "[us-east-1, eu-west-1]", ("us-east-1", "eu-west-1")),
        ("regions", "all", "all", "all"),
        (
            "max_rate",
            "ListTags=2.5,DescribeTrainingJob=7",
            "{ListTags: 2.5, DescribeTrainingJob: 7}",
            {"ListTags": 2.5, "DescribeTrainingJob": 7.0},
        ),
        ("redact", "environment=values", "{environment: values}", {"environment": "values"}),
        ("give_up_after", "10m", "600", 600.0),
        ("created_after", "2026-01-31", "2026-01-31", "2026-01-31"),
        ("meta", "true", "true", True),
        ("report", "out/report.json", "out/report.json", "out/report.json"),
        ("exclude_accounts", "012345678901", "'012345678901'", ("012345678901",)),
        ("max_in_flight", "64", "64", 64),
    ],
)
def test_a_setting_is_the_same_in_every_layer(layer, case, file):
    """Flag, variable and file give the same value, in the form that is natural there."""
    name, text, yaml, value = case
    given_file = file(f"{name}: {yaml}\n" if layer == "file" else "")
    environ = {f"COLLECTOR_{name.upper()}": text} if layer == "environment" else {}
    found = load_settings({name: text} if layer == "flag" else {}, file=given_file, environ=environ)
    assert getattr(found, name) == value


def test_dashes_are_underscores_in_a_file(file):
    """Names may be written in a file as on the command line; empty keys are left open."""
    found = load_settings({}, file=file("max-in-flight: 5\nsink:\nlog-level: debug\n"))
    assert (found.max_in_flight, found.sink, found.log_level) == (5, ("-",), "debug")


def test_empty_variables_are_not_set():
    """A variable that is there but empty leaves the default."""
    assert load_settings({}, environ={"COLLECTOR_SINK": "", "COLLECTOR_HEADROOM": ""}).sink == (
        "-",
    )


def test_the_library_reads_no_environment(monkeypatch):
    """`Settings()` depends on its arguments alone."""
    monkeypatch.setenv("COLLECTOR_SINK", "elsewhere")
    monkeypatch.setenv("COLLECTOR_HEADROOM", "nonsense")
    assert Settings().sink == ("-",)
    assert Settings(regions=["us-east-1"]).regions == ("us-east-1",)


def test_settings_are_frozen_and_closed():
    """A setting cannot be changed, and one that does not exist cannot be given."""
    with pytest.raises(ValidationError):
        Settings().sink = "x"
    with pytest.raises(ValidationError):
        Settings(snk="x")


# --- complaints --------------------------------------------------------------------------------


def test_every_bad_key_is_told_at_once_with_its_place(file):
    """One run tells all that is wrong, where each stands, and what may have been meant."""
    lines = complaints(
        "regoins: all\nheadroom: 2\nmax_rate: {ListTagz: 1}\nnonsense: 1\n",
        file,
        flags={"status": "Done"},
        environ={"COLLECTOR_MAX_IN_FLIGHT": "many", "COLLECTOR_LOG_LEVEL": "loud"},
    )
    text = "\n".join(lines)
    assert len(lines) == 7
    assert "collector.yaml: regoins: no such setting, did you mean regions?" in text
    assert "collector.yaml: headroom: takes a number above 0, up to 1." in text
    assert "collector.yaml: max_rate" in text
    assert "did you mean ListTags?" in text
    assert "collector.yaml: nonsense: no such setting." in text
    assert "--status: 'Done' is not one of InProgress, " in text
    assert "COLLECTOR_MAX_IN_FLIGHT: " in text
    assert "COLLECTOR_LOG_LEVEL: " in text
    assert all(line.endswith((".", "?")) for line in lines)


def test_only_the_layer_that_decides_is_checked(file):
    """A bad value that another layer overrides is nobody's concern."""
    assert load_settings({"headroom": "0.5"}, file=file("headroom: 7\n")).headroom == 0.5


# --- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("created_after: 2026-01-31", "created_after", "2026-01-31"),
        ("created_after: 2026-01-31T12:00:00Z", "created_after", "2026-01-31T12:00:00+00:00"),
        ("created_after: 90d", "created_after", "90d"),
        ("accounts: 111111111111", "accounts", ("111111111111",)),
        ("accounts:\n  - 111111111111\n  - '222222222222'", "accounts", TWO_IDS),
        ("accounts: ['012345678901']", "accounts", ("012345678901",)),
        ("regions: us-east-1", "regions", ("us-east-1",)),
        ("external_id: 'ключ'\n# nothing", None, None),
        ("external_id: 12", None, None),
        ("accounts: [000000000012]", None, None),
        ("accounts: [012345670123]", None, None),
        ("regions: [no]", None, None),
        ("progress: 'on'", "progress", "on"),
    ],
)
def test_what_yaml_makes_of_plain_words(text, name, value, file):
    """Ids, dates and words that YAML takes for something else are read, or told of."""
    if name is None:
        assert len(complaints(text, file)) == 1
    else:
        assert getattr(load_settings({}, file=file(text)), name) == value


def test_an_unquoted_id_is_told_of(file):
    """YAML reads an id with a leading zero as another number: the sentence says to quote it."""
    assert "quote account ids" in complaints("accounts: [000000000012]", file)[0]


@pytest.mark.parametrize("text", ["a: [", "\t: x", "- a\n- b", "just words", "a: b: c"])
def test_a_file_that_is_no_mapping_is_one_sentence(text, file):
    """A file that cannot be parsed, or holds something else, is told of by its name."""
    lines = complaints(text, file)
    assert len(lines) == 1
    assert "collector.yaml" in lines[0]


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    """No file, a folder, and bytes that are no text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("none.yaml", ".", "binary"):
        with pytest.raises(ConfigurationError) as caught:
            load_settings({}, file=tmp_path / name)
        assert "settings file" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_variables_are_listed():
    """Variables that are no setting are told, sorted; others' and ours are not."""
    environ = {
        "COLLECTOR_SINKK": "x",
        "COLLECTOR_PORT_80_TCP": "x",
        "COLLECTOR_SINK": "x",
        "COLLECTOR_CONFIG": "x",
        "PATH": "x",
    }
    assert unknown_variables(environ) == ["COLLECTOR_PORT_80_TCP", "COLLECTOR_SINKK"]
    assert unknown_variables({f"COLLECTOR_{name.upper()}": "x" for name in setting_fields()}) == []
    load_settings({}, environ=environ)


def test_every_setting_has_help():
    """Each field says what it is and to which group of the help it belongs."""
    for name, field in setting_fields().items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field.json_schema_extra["group"], name
