"""Options of a table that is read in parts."""

from __future__ import annotations

import pickle

import pytest

from collector.errors import ConfigurationError
from collector.settings import setting_fields
from collector.spread.options import _REFUSED, camel, read_options, report_options
from collector.tables import load_table

TABLE = load_table()
PLACES = "s3://, gs://, az://"


def refusal(**given):
    """What is said of these options."""
    with pytest.raises(ConfigurationError) as error:
        read_options(TABLE, given)
    return str(error.value)


def taken_or_not(name):
    """Whether an option takes what no option but free text can be."""
    try:
        read_options(TABLE, {name: "\0"})
    except ConfigurationError as error:
        return str(error)
    return f"{name}: taken"


def test_options_are_the_settings_in_any_case():
    """Each name is the setting's in camelCase; an engine that changes the case changes nothing."""
    given = {
        "accounts": "organization",
        "roleName": "InventoryReader",
        "regions": "us-east-1,eu-west-1",
        "createdAfter": "90d",
        "maxRate": "DescribeTrainingJob=5",
        "redact": "environment=values",
        "meta": "true",
        "overlap": "1h",
        "numPartitions": "8",
        "mode": "PERMISSIVE",
        "reportPath": "s3://bucket/reports",
    }
    options = read_options(TABLE, given)
    assert options == read_options(TABLE, {name.lower(): value for name, value in given.items()})
    settings = options.settings
    assert (settings.role_name, settings.regions) == ("InventoryReader", ("us-east-1", "eu-west-1"))
    assert settings.max_rate == {"DescribeTrainingJob": 5.0}
    assert (settings.meta, settings.overlap) == (True, 3600.0)
    assert (options.parts, options.mode) == (8, "permissive")
    assert options.report_path == "s3://bucket/reports"


def test_every_setting_is_an_option_or_is_refused_with_a_reason():
    """A new setting is one or the other; what is refused is told why."""
    assert _REFUSED.keys() < setting_fields().keys()
    for name in setting_fields():
        spelled = camel(name)
        if name in _REFUSED:
            assert refusal(**{spelled: "x"}) == f"There is no option {spelled}: {_REFUSED[name]}."
        else:
            assert taken_or_not(spelled).startswith(f"{spelled}: ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"acounts": "current"}, "There is no option acounts; did you mean accounts?"),
        ({"role_name": "R"}, "There is no option role_name; did you mean roleName?"),
        ({"partitions": "3"}, "There is no option partitions; did you mean numPartitions?"),
        ({"path": "x"}, "There is no option path."),
        ({"numPartitions": "0"}, "numPartitions: takes 1 to 10000, not '0'."),
        ({"mode": "dropMalformed"}, "mode: takes failfast or permissive, not 'dropMalformed'."),
        ({"maxInFlight": "many"}, "maxInFlight: takes a whole number."),
        ({"columns": "tag"}, "There is no column 'tag'; did you mean tags?"),
        (
            {"reportPath": "hdfs://x"},
            f"reportPath: takes a folder that all machines see, or {PLACES}, not 'hdfs://x'.",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(given, said):
    """Unknown options come with the nearest one, wrong values with what is taken."""
    assert refusal(**given) == said


def test_every_wrong_setting_is_named_at_once():
    """Two bad settings are two lines."""
    assert refusal(headroom="2", tags="some").count("\n") == 1


def test_columns_are_chosen_in_the_order_asked_for():
    """`columns` narrows a row, and those that settings add can be chosen as well."""
    options = read_options(TABLE, {"columns": "tags, training_job_arn,_region", "meta": "true"})
    assert [column.name for column in options.columns] == ["tags", "training_job_arn", "_region"]
    assert len(read_options(TABLE, {}).columns) == 45


def test_a_batch_and_a_stream_refuse_each_others_options():
    """Permissive needs a place for reports, and is not for streams, which have no end either."""
    options = [
        (read_options(TABLE, {"mode": "permissive"}).for_batch, "reportPath"),
        (read_options(TABLE, {"pollEvery": "1m"}).for_batch, "streams"),
        (read_options(TABLE, {"mode": "permissive", "reportPath": "x"}).for_stream, "batches"),
        (read_options(TABLE, {"createdBefore": "1d"}).for_stream, "batches"),
    ]
    for check, word in options:
        with pytest.raises(ConfigurationError, match=word):
            check()
    both = read_options(TABLE, {})
    assert both.for_batch() is both.for_stream() is both


def test_options_travel():
    """They are pickled on the driver and read on an executor."""
    options = read_options(TABLE, {"columns": "tags", "regions": "us-east-1"})
    assert pickle.loads(pickle.dumps(options)) == options


def test_reports_have_few_options():
    """Where they are, and whose keys open it; nothing else."""
    place, settings = report_options({"reportpath": "reports", "PROFILE": "audit"})
    assert (place, settings.profile) == ("file://reports", "audit")
    with pytest.raises(ConfigurationError, match="did you mean reportPath"):
        report_options({"reportspath": "x"})
    with pytest.raises(ConfigurationError, match="Give reportPath"):
        report_options({})
