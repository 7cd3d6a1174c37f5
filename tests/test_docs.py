"""README.md and CHANGELOG.md are held against the program.

`python tests/test_docs.py` writes the option tables of the README anew.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
import tomllib
import types
from dataclasses import asdict
from pathlib import Path

import botocore.loaders
import click
import orjson
import pytest
import yaml
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import collector
import collector.testing
from collector import Collector, Settings, console, emf, errors, events, telemetry
from collector.aws.targets import Identity
from collector.cli import _NOT_IN_DEMO, _flags, cli
from collector.flatten import Flattener, Notes
from collector.iam import policy
from collector.model import Account, Outcome, Table, Target
from collector.parse import parse_duration
from collector.plan import _totals, grants
from collector.plan.model import Lack, Place, Preflight, TargetPlan
from collector.report import Report
from collector.settings import load_settings, setting_fields
from collector.sinks import base
from collector.sinks.base import Sink
from collector.tables import load_table
from collector.testing import Estate, FakeAws, credentials_for
from collector.validate import validate_lines
from tests.event_values import job
from tests.sinks.sink_rows import RUN

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def commands(group, *names):
    """Every command by its name, those of a group with the group's before it."""
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


COMMANDS = dict(commands(cli))
BLOCK = re.compile(r"(?:^<!-- ([^>]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(label, kind, body) for label, kind, body in BLOCK.findall(TEXT)]
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)


def blocks(kind):
    return [body for _, its_kind, body in BLOCKS if its_kind == kind]


def block(label):
    (body,) = [body for its_label, _, body in BLOCKS if its_label == label]
    return body


def table_rows(heading):
    """The rows of the first table that starts with a row of these headings, as lists of cells."""
    start = TEXT.index(f"| {heading} |")
    lines = TEXT[start:].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# ------------------------------------------------------------------------------------ options


def options(command):
    """The options of a command by their parameter's name, as click has them."""
    params = command.get_params(click.Context(command))
    return {
        param.name: param
        for param in params
        if isinstance(param, click.Option) and "--help" not in param.opts
    }


def code(text):
    return f"`{text}`".replace("|", "\\|") if text else ""


def prose(text):
    """A sentence of the help, with what Markdown would take for emphasis escaped."""
    return re.sub(r"(?<!\w)_(?=\w)|\*", lambda match: "\\" + match[0], text)


def shown_default(name):
    """The default of a setting in words, such as 10m; empty where there is none."""
    field = setting_fields()[name]
    if field.default in (None, (), {}):
        return ""
    if field.annotation is bool:
        return "off"
    if field.json_schema_extra["metavar"] == "D":
        units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
        unit = next(unit for unit, size in units.items() if field.default % size == 0)
        return f"{field.default / units[unit]:g}{unit}"
    return ", ".join(field.default) if isinstance(field.default, tuple) else str(field.default)


def render_run():
    """The tables of the options of `run`, one for each group of the help."""
    flags = options(COMMANDS["run"])
    groups = {}
    for name, field in setting_fields().items():
        row = (
            code(f"{flags[name].opts[0]} {flags[name].metavar or ''}".strip()),
            prose(field.description),
            code(shown_default(name)),
            code(f"COLLECTOR_{name.upper()}"),
        )
        groups.setdefault(field.json_schema_extra["group"], []).append(row)
    lines = []
    for group, cells in groups.items():
        lines += ["", f"{group}:", "", "| option | meaning | default | variable |"]
        lines += ["| --- | --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join([*lines, "", ""])


def own_options(name):
    """The options of a command that are no settings; the demo's accounts and regions are counts."""
    shared = {"config", *(setting_fields() if name in {"run", "plan", "demo"} else ())}
    shared -= {"accounts", "regions"} if name == "demo" else set()
    return [option for key, option in options(COMMANDS[name]).items() if key not in shared]


def render_others():
    """The table of the options that the other commands have, and what they share with `run`."""
    lines = ["", "| command | option | meaning | default |", "| --- | --- | --- | --- |"]
    for name in COMMANDS:
        for option in own_options(name):
            kind = option.type
            choices = "|".join(kind.choices) if isinstance(kind, click.Choice) else "N"
            metavar = "" if option.is_flag else f" {option.metavar or choices}"
            has_one = isinstance(option.default, int | float | str) and not option.is_flag
            default = f"{option.default}" if has_one else ""
            help_ = prose(option.help)
            cells = (code(name), code(option.opts[0] + metavar), help_, code(default))
            lines.append(f"| {' | '.join(cells)} |")
    without = [name for name in _NOT_IN_DEMO if name not in {"accounts", "regions"}]
    demo = ", ".join(code("--" + name.replace("_", "-")) for name in without)
    lines += [
        "",
        "`plan` also takes `--config` and all of `run`.",
        f"`demo` also takes all of `run` except `--config`, {demo}.",
        "It reads no file and no variable.",
    ]
    return "\n".join([*lines, "", ""])


def render_otel():
    """The table of the metrics for OpenTelemetry."""
    lines = [
        "",
        "| metric | kind | unit | attributes | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric in telemetry.METRICS:
        attributes = ", ".join(map(code, metric.attributes))
        cells = (code(metric.name), metric.kind, code(metric.unit), attributes, metric.meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])


def render_emf():
    """The table of the metrics for CloudWatch."""
    lines = ["", "| metrics | dimensions | unit | when |", "| --- | --- | --- | --- |"]
    kinds = (
        (emf.CALLS, "`Table`, `Operation`", "each minute"),
        (emf.RUN, "`Table`", "each minute"),
        (emf.END, "`Table`", "at the end"),
    )
    for units, dimensions, when in kinds:
        for unit in dict.fromkeys(units.values()):
            names = ", ".join(code(name) for name in units if units[name] == unit)
            lines.append(f"| {names} | {dimensions} | {unit} | {when} |")
    return "\n".join([*lines, "", ""])


def with_tables(text):
    """The README with the tables that the program knows made anew."""
    tables = {
        "options of run": render_run(),
        "options of the others": render_others(),
        "metrics of otel": render_otel(),
        "metrics of emf": render_emf(),
    }
    for what, rendered in tables.items():
        marks = re.compile(rf"(<!-- {what}: [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = marks.subn(lambda match, new=rendered: match[1] + new + match[2], text)
        if count != 1:
            raise ValueError(f"The README has no place for the {what}.")
    return text


def test_tables_are_the_programs():
    """Each option is documented with its help, default and variable, each metric as it is."""
    assert with_tables(TEXT) == TEXT, "run `python tests/test_docs.py`"


def test_documented_defaults_are_defaults():
    """Giving each documented variable its documented default changes nothing."""
    rows = [
        row
        for table in re.findall(r"^\| option \|.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
        for row in (re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:-1])
    ]
    variables = {row[3].strip(" `"): row[2].strip(" `") for row in rows}
    assert set(variables) == {f"COLLECTOR_{name.upper()}" for name in setting_fields()}
    environ = {name: value.replace("off", "false") for name, value in variables.items() if value}
    environ["COLLECTOR_PROGRESS"] = variables["COLLECTOR_PROGRESS"]
    assert load_settings({}, environ=environ).model_dump() == Settings().model_dump()


def test_every_flag_in_the_prose_exists():
    """No option is documented that no command has."""
    known = {flag for name in COMMANDS for flag in all_flags(COMMANDS[name])}
    known |= all_flags(cli)
    spans = [span for span in re.findall(r"`([^`]+)`", PROSE) if "tests.benchmarks" not in span]
    named = {flag for span in spans for flag in flags_in(span)}
    assert named - known == set()
    assert {"--headroom", "--meta", "--principal"} <= named


def all_flags(command):
    params = [param for param in command.get_params(click.Context(command)) if param.opts]
    return {flag for param in params for flag in (*param.opts, *param.secondary_opts)}


def flags_in(span):
    return re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)


# ----------------------------------------------------------------------------------- commands


def simple_commands(script):
    """Each command of a script as a list of words, without redirections and assignments."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command, skip = [], False
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                if command and not set(word) <= set("<>"):
                    yield command
                    command = []
                skip = set(word) <= set("<>")
            elif skip:
                skip = False
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def collector_calls():
    """(arguments, environment) of every call of the program in the README."""
    spans = [span for span in re.findall(r"`([^`]+)`", PROSE) if re.match(r"collector [a-z]", span)]
    for script in [*blocks("bash"), *spans]:
        for words in simple_commands(script):
            if Path(words[0]).name == "collector":
                yield words[1:], {}
            elif words[:2] == ["docker", "run"]:
                at = words.index("aws-resource-collector")
                pairs = [word for word in words[:at] if word.startswith("COLLECTOR_")]
                yield words[at + 1 :] or ["run"], dict(pair.split("=", 1) for pair in pairs)


def named(arguments):
    """The name of the command that is called, and what it is given."""
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    return " ".join(arguments[:words]), arguments[words:]


CALLS = list(collector_calls())


@pytest.mark.parametrize(("arguments", "environ"), CALLS, ids=[" ".join(c[0]) for c in CALLS])
def test_every_command_line_is_accepted(arguments, environ):
    """Each call in the README names a command, options that it has and values that they take."""
    name, rest = named(arguments)
    command = COMMANDS[name]
    if name in {"validate", "report merge"} and not rest:
        rest = ["FILE"]  # only named, in the prose
    with command.make_context(name, list(rest), parent=click.Context(cli)) as context:
        settings = {key: value for key, value in context.params.items() if key in setting_fields()}
    if name in {"run", "plan"}:
        if settings.get("table"):  # the example's table is not installed
            settings["table"] = ()
        load_settings(_flags(settings), environ=environ)


def test_the_readme_calls_every_command():
    """No command is left undocumented."""
    assert {named(arguments)[0] for arguments, _ in CALLS} == set(COMMANDS)


def test_the_fake_aws_takes_its_flags():
    """The stand-in's own command line has the flags that the README gives it."""
    (line,) = [
        line for script in blocks("bash") for line in script.splitlines() if ".testing" in line
    ]
    command = [sys.executable, *shlex.split(line)[1:], "--help"]
    assert "--port" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert set(flags_in(line)) == {"--accounts", "--jobs"}


def test_the_two_commands_and_ci_agree():
    """CI installs and tests with the very words of the README."""
    demo, tests, *_ = blocks("bash")
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.strip().endswith("&& .venv/bin/collector demo")
    venv, install, run = tests.strip().split(" && ")
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    steps = [
        line.strip().replace('"', "").replace("$venv", ".venv") for line in script.splitlines()
    ]
    steps = [step.replace("${PYTHON:-python3}", "python3") for step in steps]
    assert [step for step in steps if step in (venv, install, run)] == [venv, install, run]


def test_ci_is_a_script_that_stops_at_the_first_failure():
    """CI is executable bash that fails when any of its steps does."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


# ------------------------------------------------------------------------------ reference tables


def test_exit_statuses_are_the_programs():
    """The table lists each status that the code can end with, and no other."""
    raised = {
        kind.exit_status
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.CollectorError)
    }
    ended = {console.COMPLETE, console.NOTHING_DONE, console.INCOMPLETE}
    signalled = {console.SIGNALLED + 2, console.SIGNALLED + 15}
    usage = {click.UsageError.exit_code}
    documented = {int(row[0]) for row in table_rows("status | meaning")}
    assert documented == raised | ended | signalled | usage


def test_retry_policies_fit_their_services():
    """What the README gives to Batch, ECS and Kubernetes is accepted there, and agrees."""
    again = {int(row[0]) for row in table_rows("status | run it again at once?") if row[1] > "Y"}
    no = {int(row[0]) for row in table_rows("status | run it again at once?")} - again
    assert no == {2, 3}
    shapes = {"batch": "RetryStrategy", "ecs": "ContainerRestartPolicy"}
    batch, ecs = json.loads(block("Batch retries")), json.loads(block("ECS restarts"))
    loader = botocore.loaders.create_loader()
    for service, value in (("batch", batch), ("ecs", ecs)):
        model = ServiceModel(loader.load_service_model(service, "service-2"))
        shape = model.shape_for(shapes[service])
        assert ParamValidator().validate(value, shape).generate_report() == ""
    assert {int(rule["onExitCode"]) for rule in batch["evaluateOnExit"]} == no
    assert set(ecs["ignoredExitCodes"]) == {0, *no}
    job = yaml.safe_load(block("Job retries"))
    (codes,) = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"][1:]]
    assert set(codes["values"]) == no
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # or the policy is refused


def full_report():
    """A report in which every part has something."""
    target = Target(Account("111111111111"), "us-east-1")
    report = Report()
    report(events.RunStarted("run", "table", 0.0, "3/16"))
    report(events.CallEnded("111111111111", "us-east-1", "ListTags", "ok", False, 0.1))
    report(events.JobFailed(target, job("arn"), "ListTags", "error", 1))
    report(events.FieldsNoted(("A.B",), ("a.b",)))
    report(events.Warned("warning"))
    report(events.TargetEnded(target, Outcome.PARTIAL, 1.0, (("ListTags", 1.0),), "error"))
    return report.as_dict()


OPEN = {"calls", "rate", "schema_drift", "coerced", "regions_told_by", "blocked"}
"""Members of the report, and of the plan, whose keys are data."""


def paths(value, path="", name=""):
    if isinstance(value, dict):
        for key, item in value.items():
            step = "*" if name in OPEN and not path.endswith("*") else key
            yield from paths(item, f"{path}.{step}".lstrip("."), key)
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{path}[]")
    else:
        yield path


def test_report_keys_are_the_programs():
    """The table of the report names each of its keys, in their order."""
    documented = [row[0].strip("`") for row in table_rows("key | meaning")]
    assert documented == list(dict.fromkeys(paths(full_report())))


def full_plan():
    """A plan in which every part has something."""
    caller = Identity("111111111111", "arn:aws:iam::111111111111:user/ops", "aws")
    lacks = [Lack("222222222222", "sagemaker:ListTags", by) for by in (None, "a deny")]
    action = "sagemaker:ListTags"
    target = TargetPlan("222222222222", "us-east-1", missing=[action], blocked={action: "a deny"})
    return Preflight(
        caller=asdict(caller),
        complete=False,
        totals=_totals([target], 0.1, Settings()),
        regions_told_by={"none": 1},
        targets=[target],
        missing=["sagemaker:ListTags"],
        grants=grants.grants(lacks, load_table(), "Reader", caller),
        blocked=grants.blocked(lacks, "Reader", caller),
        places=[Place("sink", "-", "ok", "")],
        warnings=["warning"],
    )


def test_plan_keys_are_the_programs():
    """The table of the plan names each of its keys, in their order."""
    found = asdict(full_plan())
    for grant in found["grants"]:
        grant["policy"] = "documented by AWS"
    documented = [row[0].strip("`") for row in table_rows("plan key | meaning")]
    assert documented == list(dict.fromkeys(paths(found)))


def test_outcomes_are_the_programs():
    """The table lists each outcome of a target."""
    documented = [row[0].strip("`") for row in table_rows("outcome | meaning")]
    assert documented == [outcome.value for outcome in Outcome]


def test_policy_is_the_programs():
    """The policy in the README is what `collector iam-policy` prints."""
    assert block("policy") == json.dumps(policy(load_table()), indent=2) + "\n"


def test_record_is_a_record():
    """The sample keeps the columns' order and, with the columns left out, is a valid record."""
    sample = json.loads(block("record"))
    names = [column.name for column in load_table().columns]
    assert list(sample) == [name for name in names if name in sample]
    assert f"{len(sample)} of its {len(names)} columns" in TEXT
    whole = orjson.dumps({**dict.fromkeys(names), **sample})
    assert list(validate_lines(load_table(), [whole + b"\n"])) == []


def test_dependencies_are_the_packages():
    """Each dependency is listed with its reason, and nothing else is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]]
    assert [row[0].strip("`") for row in table_rows("package | why")] == names


def test_extras_are_the_packages():
    """Each package of an extra is listed with its reason, and nothing else is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = dict(project["optional-dependencies"])
    for ours in ("examples", "test"):  # what this repository needs, not what a user does
        del extras[ours]
    names = [(key, re.match(r"[\w-]+", one)[0]) for key, each in extras.items() for one in each]
    rows = table_rows("extra | package | why")
    assert [(row[0].strip("`"), row[1].strip("`")) for row in rows] == names


async def test_the_telemetry_example_traces_what_the_readme_says(monkeypatch, aws, tmp_path):
    """The example writes to the program's own providers, spans with the attributes of the table."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry.trace, "get_tracer_provider", lambda: tracers)
    settings = Settings(
        accounts=[aws.estate.management_account, "999999999999"],  # and one that is not there
        role_name="Reader",
        sink=str(tmp_path / "jobs.ndjson"),
        regions=["us-east-1"],
    )
    await run_example(block("telemetry")).run(settings)
    used = {}
    for span in exporter.get_finished_spans():
        used.setdefault(span.name, set()).update(span.attributes)
    rows = table_rows("span | attributes | error")
    assert {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in rows} == used


def test_what_is_public_explains_itself():
    """Each public name has a docstring, and so has each public member of its class."""
    bare = []
    for module in (collector, collector.testing):
        for name in module.__all__:
            value = getattr(module, name)
            members = vars(value) if inspect.isclass(value) and name != "Settings" else {}
            kinds = (property, classmethod, types.FunctionType)
            bare += [
                f"{name}.{member}"
                for member, inner in members.items()
                if not member.startswith("_") and isinstance(inner, kinds) and not inner.__doc__
            ]
            bare += [] if value.__doc__ else [name]
    assert bare == []


def test_public_errors_are_listed():
    """The errors that the package exports for callers of the library are explained."""
    documented = {row[0].strip("`") for row in table_rows("error | when")}
    exported = {name for name in collector.__all__ if name.endswith("Error")}
    assert documented == exported - {"CollectorError", "CallError"}


def test_changelog_has_this_version():
    """The version that is built has a dated section with its changes."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.escape(collector.__version__)
    assert re.search(rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)


def test_files_that_the_readme_names_exist():
    """Every path of this repository in the README leads somewhere."""
    named = re.findall(r"`((?:collector|config|tests)/[\w./-]*|\.ci/run|[A-Z]+(?:\.md)?)`", PROSE)
    named = [name for name in named if "/" in name or name.endswith(".md") or name == "LICENSE"]
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_links_within_the_page_lead_somewhere():
    """Each link to a section is to one that is there, by the name that a renderer gives it."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL), re.MULTILINE
    )
    anchors = {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}
    links = re.findall(r"\]\(#([^)]*)\)", TEXT)
    assert len(links) > 10
    assert set(links) <= anchors


def test_tests_behind_the_promises_exist():
    """Each promise names its tests, and they are there."""
    rows = table_rows("promise | test")
    assert len(rows) > 10
    for promise, tests in rows:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", tests)
        assert named, promise
        for file, test in named:
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), test


# ----------------------------------------------------------------------------------- examples


def run_example(source, name="example"):
    """The names that a Python example defines."""
    module = types.ModuleType(name)
    exec(compile(source, f"README.md: {name}", "exec", dont_inherit=True), vars(module))
    return module


@pytest.fixture
def aws(monkeypatch):
    """A fake AWS that the SDK's own variables lead to."""
    estate = Estate.generate(accounts=2, regions=["us-east-1"], jobs=30, now=time.time())
    access_key, secret_key = credentials_for(estate.management_account)
    with FakeAws(estate).in_thread() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL", fake.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        yield fake


PYTHON = [body for label, kind, body in BLOCKS if kind == "python" and not label]


@pytest.mark.parametrize("source", PYTHON, ids=["async", "blocking"])
def test_library_examples_run(source, aws):
    """The scripts of the quick start run as they stand."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run_example(source)
    assert out.getvalue().strip()
    assert not out.getvalue().startswith("0 jobs")
    assert "could not be read" not in out.getvalue()
    assert aws.calls["DescribeTrainingJob"] > 0


async def test_the_testing_example_passes(monkeypatch):
    """The test that the README shows is a test that passes."""
    (test,) = [
        value
        for name, value in vars(run_example(block("testing"))).items()
        if name.startswith("test_")
    ]
    await test(monkeypatch)


def entry_points(monkeypatch, module, label, value):
    """Installs what an example's entry point names; returns the entry point's own name."""
    ((wanted, points),) = tomllib.loads(block(label))["project"]["entry-points"].items()
    ((name, target),) = points.items()
    assert target.partition(":")[0].replace(".", "/") + ".py" in block(label.split()[0])
    point = types.SimpleNamespace(name=name, load=lambda: value)
    monkeypatch.setattr(module, "entry_points", lambda *, group: [point] if group == wanted else [])
    return name


WIRE = {
    "ProcessingJobName": "prepare",
    "ProcessingJobArn": "arn:aws:sagemaker:us-east-1:111111111111:processing-job/prepare",
    "ProcessingJobStatus": "Completed",
    "CreationTime": 1.7e9,
    "Environment": {"camelCase": "kept"},
    "AppSpecification": {"ImageUri": "image", "ContainerEntrypoint": []},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    "RoleArn": "arn:aws:iam::111111111111:role/Role",
}


def test_the_table_example_is_a_table(monkeypatch):
    """The example is found by its entry point, fills records, and has a schema and a policy."""
    table = run_example(block("table")).TABLE
    assert isinstance(table, Table)
    name = entry_points(monkeypatch, collector.tables, "table entry point", table)
    assert load_table(name) is table
    assert name == table.name
    notes = Notes()
    record = Flattener(table)(WIRE, "111111111111", ["team:ml"], notes)
    assert list(record) == [column.name for column in table.columns]
    assert record["creation_time"] == "2023-11-14T22:13:20.000Z"
    assert record["app_specification"] == {"container_entrypoint": [], "image_uri": "image"}
    assert (notes.drift, notes.coerced) == (["RoleArn"], [])
    assert list(validate_lines(table, [orjson.dumps(record) + b"\n"])) == []
    assert "sagemaker:ListProcessingJobs" in json.dumps(policy(table))


async def test_the_sink_example_takes_a_run(monkeypatch, aws, tmp_path):
    """The example is found by its entry point, and keeps the latest record of every job."""
    monkeypatch.chdir(tmp_path)
    assert len(block("sink").splitlines()) < 40
    entry_points(monkeypatch, base, "sink entry point", run_example(block("sink")))
    settings = Settings(
        accounts="organization", role_name="Reader", sink="sqlite://jobs.db", regions=["us-east-1"]
    )
    assert isinstance(base.open_sinks(settings.sink, RUN), Sink)
    for taken in (1, 2):
        async with Collector(settings) as c:
            await c.run()
        assert c.complete
        with contextlib.closing(sqlite3.connect("jobs.db")) as database:
            records = [json.loads(row[0]) for row in database.execute("SELECT record FROM jobs")]
        assert len(records) == aws.calls["DescribeTrainingJob"] / taken == 2 * 30


def test_the_sink_example_is_installed_and_run(tmp_path):
    """As a package with an entry point, it serves the command line like a sink of ours."""
    package, known = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
    package.mkdir()
    known.mkdir()
    (package / "__init__.py").touch()
    (package / "sqlite_sink.py").write_text(block("sink"), encoding="utf-8")
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    ((name, target),) = tomllib.loads(block("sink entry point"))["project"]["entry-points"][
        "collector.sinks"
    ].items()
    (known / "entry_points.txt").write_text(f"[collector.sinks]\n{name} = {target}\n")
    jobs = tmp_path / "jobs.db"
    demo = [sys.executable, "-m", "collector", "demo", "--jobs", "3", "--log-level", "warning"]
    done = subprocess.run(
        [*demo, "--sink", f"sqlite://{jobs}"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with contextlib.closing(sqlite3.connect(jobs)) as database:
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (27,)


async def test_the_sink_example_says_what_is_wrong(tmp_path):
    """Where nothing can be written, one sentence says so before AWS is asked."""
    opened = run_example(block("sink")).open_sink(f"sqlite://{tmp_path}/no/jobs.db", RUN)
    with pytest.raises(errors.SinkError, match="Cannot write to"):
        await opened.open()


def test_durations_of_the_readme_are_durations():
    """Each duration that the README gives as an example can be given."""
    (line,) = [line for line in TEXT.splitlines() if line.startswith("A duration is")]
    assert [parse_duration(word) for word in re.findall(r"`(\w+)`", line)]


if __name__ == "__main__":
    README.write_text(with_tables(TEXT), encoding="utf-8")
