"""Validators of settings: what each takes and refuses; durations and times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ConfigurationError
from collector.parse import parse_duration, parse_time
from collector.settings import load_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("table", "aws_sagemaker_trainingjobs"),
        ("accounts", "everyone"),
        ("accounts", "12345"),
        ("accounts", []),
        ("accounts", True),
        ("accounts", {"a": 1}),
        ("role_name", "arn:aws:iam::111111111111:role/Reader"),
        ("role_name", "with space"),
        ("role_name", ""),
        ("external_id", "x"),
        ("external_id", "white space"),
        ("role_session_name", "x"),
        ("role_session_name", "a/b"),
        ("exclude_accounts", "1"),
        ("regions", []),
        ("regions", "us_east_1"),
        ("regions", "US-EAST-1"),
        ("regions", [False]),
        ("created_after", "yesterday"),
        ("created_after", 2026),
        ("created_before", "2026-13-01"),
        ("status", "completed"),
        ("tags", "some"),
        ("max_in_flight", 0),
        ("max_in_flight", 10_001),
        ("max_in_flight", 1.5),
        ("max_rate", "ListTags"),
        ("max_rate", "ListTags=0"),
        ("max_rate", "ListTags=-1"),
        ("max_rate", "ListTags=nan"),
        ("max_rate", "ListTags=inf"),
        ("max_rate", "Tags=1"),
        ("headroom", 0),
        ("headroom", 1.01),
        ("headroom", "nan"),
        ("connect_timeout", 0),
        ("read_timeout", "0s"),
        ("call_timeout", -1),
        ("sink", ""),
        ("redact", "environment=all"),
        ("redact", "role_arn=values"),
        ("extra", "maybe"),
        ("give_up_after", "soon"),
        ("grace", "5 weeks"),
        ("full_every", "weekly"),
        ("horizon", "-1d"),
        ("progress", "yes"),
        ("log_format", "xml"),
        ("log_level", "trace"),
        ("include_ou", "ou-1"),
        ("metrics", "prometheus"),
        ("metrics", "otel,x"),
    ],
)
def test_a_bad_value_is_one_sentence_with_its_flag(name, value):
    """Every validator refuses, names the flag, and does so in one line."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"--{name.replace('_', '-')}")
    assert ": " in lines[0]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("role_name", "Reader", "Reader"),
        ("role_name", "/team/x/Reader", "team/x/Reader"),
        ("role_name", "a+=,.@_-b", "a+=,.@_-b"),
        ("external_id", "a:b/c=", "a:b/c="),
        ("regions", ["us-gov-west-1", "us-gov-west-1"], ("us-gov-west-1",)),
        ("regions", "us-iso-east-1,cn-north-1", ("us-iso-east-1", "cn-north-1")),
        ("accounts", 111111111111, ("111111111111",)),
        ("accounts", "111111111111,111111111111", ("111111111111",)),
        ("status", "Completed", "Completed"),
        ("created_before", "90d", "90d"),
        ("metrics", "otel,emf", ("otel", "emf")),
    ],
)
def test_a_good_value_is_taken(name, value, expected):
    """Validators take every form that AWS takes, and drop repeats."""
    assert getattr(load_settings({name: value}), name) == expected


def test_settings_that_need_each_other():
    """Settings that make no sense without another say which one."""
    with pytest.raises(ConfigurationError, match="needs role_name"):
        load_settings({"accounts": "organization"})
    with pytest.raises(ConfigurationError, match=r"(?i)include_ou narrows"):
        load_settings({"include_ou": "ou-abcd-12345678"})
    with pytest.raises(ConfigurationError, match="metrics_file is for metrics=emf only"):
        load_settings({"metrics": "otel", "metrics_file": "x"})
    units = ("ou-abcd-12345678", "r-abcd")
    flags = {"accounts": "organization", "role_name": "R", "include_ou": ",".join(units)}
    assert load_settings(flags).include_ou == units


# --- durations and times -----------------------------------------------------------------------

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 10**6), st.sampled_from([*UNITS, ""]), st.sampled_from(["", " "]))
def test_durations_are_read_as_they_are_written(amount, unit, space):
    """An amount and a unit give so many seconds; without a unit they are seconds."""
    seconds = parse_duration(f" {amount}{space if unit else ''}{unit} ")
    assert seconds == pytest.approx(amount * UNITS.get(unit, 1))
    assert parse_duration(seconds) == seconds
    assert parse_duration(f"{seconds:f}s") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "s", "-1s", "1w", "1h30m", "1e3", "nan", -1, float("nan"), True, None, [1]]
)
def test_what_is_no_duration_is_refused(value):
    """Anything else is told of with examples."""
    with pytest.raises(ValueError, match="is not a duration such as 90s"):
        parse_duration(value)


@given(st.datetimes(timezones=st.timezones()))
def test_timestamps_with_an_offset_are_read_exactly(moment):
    """A timestamp with an offset is that instant, whatever the machine's zone."""
    if moment.utcoffset().total_seconds() % 60:
        return
    assert parse_time(moment.isoformat(), 0.0) == moment.timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86400.0),
        ("1970-01-01T01:00", 3600.0),
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:00+01:00", -3600.0),
        (" 1970-01-01 ", 0.0),
        ("90s", 999_910.0),
        ("1d", 913_600.0),
    ],
)
def test_dates_are_utc_and_ages_count_back(text, seconds, monkeypatch):
    """A date without an offset is UTC; an age counts back from now."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert parse_time(text, 1_000_000.0) == seconds


@pytest.mark.parametrize("text", ["", "90", "1.5", "tomorrow", "2026-02-30", "12:00", "-5d"])
def test_what_is_no_time_is_refused(text):
    """Bare numbers and impossible dates are told of with examples."""
    with pytest.raises(ValueError, match="or an age"):
        parse_time(text, 0.0)
