"""Shell completion, asked for as the shells ask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collector.settings import setting_fields
from collector.tables import load_table

README = Path(__file__).parents[2] / "README.md"
PROGRAM = Path(sys.executable).with_name("collector")


def in_bash(line: str) -> list[str]:
    """What bash offers at the end of ``line``, by the script that the README has it load."""
    script = r"""
        eval "$(_COLLECTOR_COMPLETE=bash_source "$1")"
        read -ra COMP_WORDS <<<"$(sed 's/=/ = /g' <<<"$2")"
        [[ $2 == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        COMP_WORDS[0]=$1
        _collector_completion "$1"
        printf '%s\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", PROGRAM, line], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("collector pl", ["plan"]),
        ("collector run --tags ", ["bulk", "each", "none"]),
        ("collector run --tags=n", ["none"]),
        ("collector run --red", ["--redact"]),
        ("collector run --redact env", ["environment=values", "environment=matching"]),
        ("collector run --redact environment=", ["values", "matching"]),
        ("collector run --redact environment=v", ["values"]),
        ("collector run --no-m", ["--no-meta"]),
        ("collector plan --regions us-west-1,us-west-", ["us-west-1,us-west-1",
                                                         "us-west-1,us-west-2"]),
        ("collector run --status Comp", ["Completed"]),
        ("collector run --max-rate Describe", ["DescribeTrainingJob="]),
        ("collector run --accounts o", ["organization"]),
        ("collector run --table ", ["aws_sagemaker_trainingjob"]),
        ("collector run --sink s", ["s3://"]),
        ("collector run --log-level d", ["debug"]),
        ("collector schema --format d", ["duckdb"]),
    ],
)  # fmt: skip
def test_bash_offers(line, offered):
    """Commands, options and the values that they take, also behind an equals sign."""
    assert in_bash(line) == offered


def test_the_lines_of_the_readme_are_the_programs():
    """For each shell the README sets the variable that the program listens to."""
    table = README.read_text(encoding="utf-8").partition("| shell | line | file |")[2]
    lines = [line for line in table.split("\n\n")[0].splitlines() if "_COMPLETE=" in line]
    asked = [re.search(r"_COLLECTOR_COMPLETE=(\w+) collector\b", line)[1] for line in lines]
    assert asked == ["bash_source", "zsh_source", "fish_source"]
    for line in lines:
        assert line.startswith(f"| {re.search(r'=([a-z]+)_', line)[1]}")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same(shell):
    """The script is printed, and the program answers as it asks it to."""
    environ = {**os.environ, "_COLLECTOR_COMPLETE": f"{shell}_source"}
    source = subprocess.run([PROGRAM], env=environ, capture_output=True, text=True, check=True)
    assert f"_COLLECTOR_COMPLETE={shell}_complete" in source.stdout
    environ |= {
        "_COLLECTOR_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "collector run --redact environment=",
        "COMP_CWORD": "environment=" if shell == "fish" else "3",
    }
    told = subprocess.run([PROGRAM], env=environ, capture_output=True, text=True, check=True)
    assert "environment=values" in told.stdout
    assert "environment=matching" in told.stdout


def test_every_choice_of_a_setting_is_offered():
    """Each setting that takes one of some words offers them all."""
    from collector.completion import _values

    for name, field in setting_fields().items():
        metavar = field.json_schema_extra["metavar"]
        if field.annotation is not bool and not metavar:
            assert list(_values(name, field, None)) == list(field.annotation.__args__), name
    assert list(_values("status", None, None)) == list(load_table().statuses)
