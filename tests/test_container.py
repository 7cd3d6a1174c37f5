"""The Dockerfile, what it is built from, and the files that pin what goes into it.

That it builds and runs is shown by `python -m tests.container.check`, which needs root and podman.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import collector
from collector.settings import load_settings

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STEPS = [
    tuple(line.split(None, 1)) for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)
]


def steps(name, among=STEPS):
    return [rest for word, rest in among if word == name]


def stages():
    """The steps of each stage, from its FROM on."""
    starts = [at for at, (word, _) in enumerate(STEPS) if word == "FROM"]
    return [STEPS[at:end] for at, end in zip(starts, [*starts[1:], None], strict=True)]


BUILD, FINAL = stages()


# ---------------------------------------------------------------------------------- Dockerfile


def test_the_image_has_two_stages_of_one_pinned_base():
    """What is built in the first stage runs in the second: one Python, pinned to its patch."""
    assert [FINAL[0][1], BUILD[0][1]] == ["${BASE}", "${BASE} AS build"]
    base = re.fullmatch(r"BASE=python:(3\.\d+)\.\d+-slim-[a-z]+", STEPS[0][1])
    assert f"Programming Language :: Python :: {base[1]}" in PROJECT["classifiers"]
    assert steps("COPY", FINAL) == ["--from=build /opt/collector /opt/collector"]


def test_the_last_stage_fetches_nothing_and_holds_no_tools():
    """What comes from an index comes in the first stage; the last takes the base's own pip away."""
    (run,) = steps("RUN", FINAL)
    commands = [part.strip() for part in run.split("&&")]
    assert commands[0].startswith("python -m pip uninstall --yes pip ")
    programs = [command.split()[0] for command in commands[1:]]
    assert programs == ["useradd", "install", "/opt/collector/bin/collector"]
    assert any("--without-pip /opt/collector" in run for run in steps("RUN", BUILD))


def test_whatever_is_installed_is_checked_first():
    """An install takes hashed wheels from an index, or what was made here; `pip check` is last."""
    commands = [part for run in steps("RUN", BUILD) for part in run.split("&&") if "pip" in part]
    installs = [words for words in commands if " install " in words or " wheel " in words]
    assert len(installs) == 4
    for words in installs:
        hashed = "--require-hashes" in words and "--only-binary :all:" in words
        assert hashed or ("--no-index" in words and "--no-deps" in words)
    assert commands[-1].split()[-1] == "check"


def test_settings_of_pip_are_mounted_and_not_copied():
    """A mirror's address and its password are there for the one step that needs them."""
    first, *others = steps("RUN")
    assert first.startswith("--mount=type=secret,id=pip,target=/etc/pip.conf ")
    assert not any("--mount" in run for run in others)
    assert not any("INDEX" in rest or "TOKEN" in rest for rest in (*steps("ARG"), *steps("ENV")))


def test_the_image_runs_the_collector_as_process_1():
    """In exec form, so that signals reach the collector and not a shell; `run` unless told else."""
    assert [json.loads(rest) for rest in steps("ENTRYPOINT")] == [["collector"]]
    assert [json.loads(rest) for rest in steps("CMD")] == [["run"]]
    assert steps("STOPSIGNAL") == []


def test_the_image_does_not_run_as_root():
    """User and group are numbers other than 0, as Kubernetes asks for, and nothing runs later."""
    (user,) = steps("USER", FINAL)
    assert all(int(number) > 0 for number in user.split(":"))
    assert f"--uid {user.split(':')[0]} " in steps("RUN", FINAL)[0]
    words = [word for word, _ in FINAL]
    assert "RUN" not in words[words.index("USER") :]


def test_the_image_logs_for_machines_and_writes_nothing_beside_the_code():
    """The variables of the image are settings that a run accepts."""
    pairs = dict(pair.split("=", 1) for rest in steps("ENV") for pair in rest.split())
    assert pairs["PYTHONUNBUFFERED"] == pairs["PYTHONDONTWRITEBYTECODE"] == "1"
    settings = load_settings({}, environ=pairs)
    assert (settings.log_format, settings.progress) == ("json", "off")


def test_the_image_says_what_it_is():
    """Its labels are the project's own, in the names of the OCI."""
    labels = dict(word.split("=", 1) for rest in steps("LABEL") for word in shlex.split(rest))
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert labels["title"] == PROJECT["name"]
    assert labels["licenses"] == PROJECT["license"]
    given = dict(rest.partition("=")[::2] for rest in steps("ARG", FINAL))
    assert given["VERSION"] == collector.__version__
    assert {labels[name] for name in ("version", "revision", "source", "base.name")} == {
        f"${{{name}}}" for name in given
    }


def test_the_image_is_built_from_what_docker_may_see():
    """Every file that is copied exists, and .dockerignore lets it through and nothing else."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    copied = [name for rest in steps("COPY", BUILD) for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert rules[0] == "*"
    assert sorted(rules[1:-1]) == sorted(f"!{name}" for name in copied)
    assert rules[-1] == "**/__pycache__"


HADOLINT = shutil.which("hadolint", path=sysconfig.get_path("scripts"))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has no wheel for this machine")
def test_hadolint_finds_nothing():
    """The linter of Dockerfiles has nothing to say, not even in passing."""
    command = [HADOLINT, "--no-color", "--failure-threshold", "style", ROOT / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_check_of_the_image_takes_what_the_readme_gives_it():
    """The script that builds and runs the image starts, and knows its one option."""
    install, line = block("tests.container.check")
    assert install == "apt-get install podman debootstrap"
    words, _, comment = line.partition(" # ")
    command = [sys.executable, *words.split()[1:], "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert comment.split()[0] in done.stdout


# --------------------------------------------------------------------------------- constraints

CONSTRAINTS = ROOT / "config/constraints.txt"
FOR_BUILD = ROOT / "config/constraints-build.txt"
PIN = re.compile(
    r"([a-z0-9-]+)==(\d[\w.]*)( ; [\w\s.'!=<>()]+)? \\\n"
    r"((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)
NOTE = re.compile(r"# This file was .*\n#    .*\n| {4}# via[\w ().-]*\n(?: {4}#   [\w ().-]+\n)*")
EXTRAS = re.findall(r"--extra (\w+)", CONSTRAINTS.read_text(encoding="utf-8").split("\n", 2)[1])


def pins(file):
    """{name: version} of a file in which nothing stands but pins, their hashes and why."""
    text = file.read_text(encoding="utf-8")
    assert NOTE.sub("", PIN.sub("", text)) == ""
    found = PIN.findall(text)
    assert len(found) == len({name for name, *_ in found}) > 1
    return {name: version for name, version, *_ in found}


@pytest.mark.parametrize("file", [CONSTRAINTS, FOR_BUILD], ids=lambda file: file.stem)
def test_each_line_pins_one_version_by_its_hashes(file):
    """No line without a hash, no host, no address: it serves whatever index it is given."""
    assert pins(file)
    assert "//" not in file.read_text(encoding="utf-8")


def asked_for():
    """(file, requirement) of whatever pyproject.toml asks for, for the image and to build it."""
    wanted = [*PROJECT["dependencies"]]
    wanted += [text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]]
    pairs = [(CONSTRAINTS, text) for text in wanted]
    return pairs + [(FOR_BUILD, text) for text in PYPROJECT["build-system"]["requires"]]


@pytest.mark.parametrize(("file", "text"), asked_for(), ids=[text for _, text in asked_for()])
def test_what_the_project_asks_for_is_pinned_within_its_bounds(file, text):
    """The files have not been left behind by pyproject.toml."""
    requirement = Requirement(text)
    assert requirement.specifier.contains(pins(file)[canonicalize_name(requirement.name)])


def test_the_sdk_is_one():
    """The pins of the SDK's three packages fit each other, as aiobotocore asks for."""
    pinned = pins(CONSTRAINTS)
    assert pinned["boto3"] == pinned["botocore"]


def test_each_dependency_is_bounded_on_both_sides():
    """A version that is too old, or one that nobody has seen, is not installed."""
    for text in PROJECT["dependencies"]:
        operators = {each.operator for each in Requirement(text).specifier}
        assert operators == {">=", "<"}, text


def block(marker):
    """The commands of the one block of the README's shell commands that has this in it."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if marker in text]
    return found.splitlines()


def test_the_readme_tells_how_the_pins_are_made():
    """The commands in the README are those that the files say they were made by."""
    made = [
        file.read_text(encoding="utf-8").splitlines()[1].removeprefix("#    ")
        for file in (CONSTRAINTS, FOR_BUILD)
    ]
    commands = block("uv pip compile")
    assert [line.partition(" <<< ")[0] for line in commands] == made
    (given,) = re.findall(r"<<< '(.*)'", commands[1])
    assert [given] == PYPROJECT["build-system"]["requires"]


def test_the_bill_of_materials_is_valid_and_whole(tmp_path):
    """The README's command writes valid CycloneDX, with each pin and its hashes."""
    (line,) = block("cyclonedx-py")
    program, *words = shlex.split(line)
    script = shutil.which(program, path=sysconfig.get_path("scripts"))
    file = tmp_path / words[words.index("--output-file") + 1]
    words[words.index("--output-file") + 1] = str(file)
    assert "--no-validate" not in words
    done = subprocess.run(
        [sys.executable, script, *words], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads(file.read_bytes())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        PROJECT["name"],
    )
    assert {each["name"]: each["version"] for each in bill["components"]} == pins(CONSTRAINTS)
    for each in bill["components"]:
        assert each["externalReferences"][0]["hashes"], each["name"]
