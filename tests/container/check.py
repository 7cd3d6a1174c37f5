"""Builds the image, runs it as the README says that it may be run, and prints figures.

    apt-get install podman debootstrap
    python -m tests.container.check

It is run by hand: it needs root, Debian's packages and, for the build, a package index. The base
that the Dockerfile names is not fetched: Debian and its Python stand in for it. With --base IMAGE
the image is built on that one instead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from tests.benchmarks.harness import fake_aws
from tests.container.podman import IMAGE, LIMITS, ROOT, Podman, output, stand_in

ROUNDS = 5
REGIONS = ("us-east-1", "eu-west-1")
JOBS = 400
"""In each of two accounts and two regions."""
GRACE = 20.0
"""What --grace is by default, in seconds."""
INSIDE = """
import importlib.metadata, importlib.util, json, os, shutil
print(json.dumps({
    "pid": os.getpid(),
    "user": [os.getuid(), os.getgid()],
    "tools": [name for name in ("pip", "gcc", "cc", "make", "git") if shutil.which(name)],
    "modules": [name for name in ("pip", "setuptools", "hatchling") if importlib.util.find_spec(name)],
    "installed": {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()},
}))
"""


def check(ok: object, claim: str) -> None:
    """Say what holds; end at the first thing that does not."""
    print(f"{'ok' if ok else 'FAILED'}: {claim}", flush=True)
    if not ok:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.container.check")
    parser.add_argument("--base", help="the base to build on, instead of a stand-in")
    options = parser.parse_args()
    base = nullcontext(options.base) if options.base else stand_in()
    with base as name, tempfile.TemporaryDirectory() as folder:
        podman = Podman(name)
        build(podman, name)
        look_inside(podman)
        demo(podman)
        nothing_is_written(podman)
        start(podman)
        heard_early(podman)
        out = Path(folder, "out")
        out.mkdir()
        out.chmod(0o1777)
        interrupted(podman, out)


def build(podman: Podman, base: str) -> None:
    mark, began = secrets.token_hex(16), time.monotonic()
    podman.build(base, mark=mark)
    print(f"built in {time.monotonic() - began:.0f} s")
    check(not podman.holds(mark), "no layer holds the settings that pip was given")
    unpacked, packed = podman.added(base)
    print(f"over its base: {unpacked / 1e6:.0f} MB unpacked, {packed / 1e6:.0f} MB in a registry")


def pins() -> dict[str, str]:
    text = (ROOT / "config/constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def look_inside(podman: Podman) -> None:
    python = podman.run_words("--network", "none", "--entrypoint", "python", IMAGE, "-c", INSIDE)
    found = json.loads(output(*python))
    check(found["user"] == [10001, 10001], "the user is a number other than root's")
    check(found["pid"] == 1, "what is run is process 1")
    check(found["tools"] == found["modules"] == [], "nothing to build with is in it")
    del found["installed"]["aws-resource-collector"]
    check(found["installed"] == pins(), "installed is what config/constraints.txt names")


def demo(podman: Podman) -> None:
    for user in ((), ("--user", "4242:4242")):
        run = podman.run_words(*user, "--network", "none", IMAGE, "demo", "--jobs", "20")
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        check(done.returncode == 0, f"the demo runs on a read-only root {' '.join(user)}".strip())
    check(done.stdout.count("\n") == 20 * 9, "each job is a line")
    validate = podman.run_words("--interactive", "--network", "none", IMAGE, "validate", "-")
    checked = subprocess.run(validate, input=done.stdout, text=True, check=False)
    check(checked.returncode == 0, "`collector validate -` takes every line")
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    check(logged[-1]["event"] == "run ended", "the log is JSON, and there is no progress bar")


def nothing_is_written(podman: Podman) -> None:
    """On a root that could be written to, too; podman itself touches /etc."""
    podman("run", "--name", "check", *LIMITS, "--network", "none", IMAGE, "demo", "--jobs", "1")
    changed = podman("diff", "check").splitlines()
    podman("rm", "check")
    check(set(changed) <= {"C /etc"}, "nothing is written that no option asks for")


def first_line(command: list[str]) -> float:
    """Seconds from the start of a command to its first line."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        seconds = time.perf_counter() - began
        process.stdout.read()
    return seconds


def start(podman: Podman) -> None:
    echo = podman.run_words("--network", "none", "--entrypoint", "echo", IMAGE, "started")
    with fake_aws("--accounts", "1", "--regions", REGIONS[0], "--jobs", "100") as environment:
        run = podman.run_words(*place(environment), IMAGE, "run", "--regions", REGIONS[0])
        times = [(first_line(echo), first_line(run)) for _ in range(ROUNDS)]
    alone, record = map(statistics.median, zip(*times, strict=True))
    print(f"start to first record: {record:.2f} s, of which {alone:.2f} s are podman's own")


def place(environment: Mapping[str, str]) -> list[str]:
    """What leads a container to the fake AWS, which listens on this machine's loopback."""
    names = [name for name in environment if name.startswith("AWS_")]
    return ["--network", "host", *(f"--env={name}={environment[name]}" for name in names)]


def process_id(podman: Podman, name: str) -> int:
    """The id here of a container's process 1, once there is one."""
    for _ in range(200):
        listed = podman("ps", "--filter", f"name=^{name}$", "--format", "{{.Pid}}")
        if listed and int(listed):
            return int(listed)
        time.sleep(0.02)
    raise SystemExit(f"the container {name} does not start")


def heard_early(podman: Podman) -> None:
    """Process 1 is sent no signal that it has no handler for, and a run has none at first."""
    with fake_aws("--accounts", "1", "--regions", REGIONS[0], "--latency", "30") as environment:
        for wait in (0.1, 0.3, 1.0):
            command = podman.run_words("--name", "check", *place(environment), IMAGE)
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                number = process_id(podman, "check")
                time.sleep(wait)
                os.kill(number, signal.SIGTERM)
                began = time.monotonic()
                ended = process.wait(60) == 143 and time.monotonic() - began < 5
            check(ended, f"SIGTERM some {wait} s after the start ends it at once with 143")


def interrupted(podman: Podman, out: Path) -> None:
    estate = ("--accounts", "2", "--regions", ",".join(REGIONS), "--jobs", str(JOBS))
    limit = ("--limit", "DescribeTrainingJob=30/10", "--latency", "0.05")
    options = {
        "ACCOUNTS": "organization", "ROLE_NAME": "InventoryReader", "REGIONS": ",".join(REGIONS),
        "SINK": "/out/jobs.ndjson", "STATE": "/out/state", "REPORT": "/out/report.json",
    }  # fmt: skip
    with fake_aws(*estate, *limit) as environment:
        variables = [f"--env=COLLECTOR_{name}={value}" for name, value in options.items()]
        volume = (f"--volume={out}:/out", "--name", "check")
        command = podman.run_words(*volume, *place(environment), *variables, IMAGE)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            partial = out / "jobs.ndjson.partial"
            while not partial.exists() or partial.stat().st_size < 500_000:
                check(process.poll() is None, "the crawl is under way")
                time.sleep(0.2)
            began = time.monotonic()
            podman("kill", "--signal", "TERM", "check")
            status, seconds = process.wait(60), time.monotonic() - began
        check(status == 143, "SIGTERM in mid-crawl ends it with 143")
        check(seconds < GRACE, f"... within the grace: {seconds:.1f} s")
        check(any(out.glob("state/*/state.json")), "... with its state saved")
        check(not (out / "jobs.ndjson").exists(), "... and nothing under the final name")
        stopped = json.loads((out / "report.json").read_text(encoding="utf-8"))
        check(not stopped["complete"], "... and a report that says so")
        again = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        check(again.returncode == 0, "the same command again ends with 0")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    lines = (out / "jobs.ndjson").read_text(encoding="utf-8").splitlines()
    jobs = [(row["training_job_arn"], row["creation_time"]) for row in map(json.loads, lines)]
    check(len(jobs) == len(set(jobs)) == 4 * JOBS, f"... with each of {4 * JOBS:,} jobs once")
    described = report["calls"]["DescribeTrainingJob"]
    described = described["calls"] - described["throttled"]
    check(described < 4 * JOBS, f"... {4 * JOBS - described:,} of them read by the first run")


if __name__ == "__main__":
    sys.exit(main())
