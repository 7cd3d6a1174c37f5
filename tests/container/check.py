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
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from tests.benchmarks.harness import fake_aws
from tests.container.podman import CONTAINER, IMAGE, LIMITS, ROOT, Podman, output, stand_in

ROUNDS = 5
REGIONS = ("us-east-1", "eu-west-1")
JOBS = 400
"""In each of two accounts and two regions."""
HALF_A_MEGABYTE = 500_000
GRACE = 20.0
"""What --grace is by default, in seconds."""
INSIDE = """
import importlib.metadata, importlib.util, json, os, shutil
found = importlib.metadata.distributions()
tools, modules = ("pip", "gcc", "cc", "make", "git"), ("pip", "setuptools", "hatchling")
print(json.dumps({
    "pid": os.getpid(),
    "user": [os.getuid(), os.getgid()],
    "tools": [name for name in tools if shutil.which(name)],
    "modules": [name for name in modules if importlib.util.find_spec(name)],
    "installed": {each.name.lower().replace("_", "-"): each.version for each in found},
}))
"""
"""What the image's own Python says of the place it is in."""


def check(ok: object, claim: str) -> None:
    """Say what holds; end at the first thing that does not."""
    if not ok:
        raise SystemExit(f"FAILED: {claim}")
    print(f"ok: {claim}", flush=True)


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
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
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
    words = (*LIMITS, "--network", "none", IMAGE, "demo", "--jobs", "1", "--log-level", "warning")
    podman("run", "--name", CONTAINER, *words)
    changed = podman("diff", CONTAINER).splitlines()
    podman("rm", CONTAINER)
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


def heard_early(podman: Podman) -> None:
    """Process 1 is sent no signal that it has no handler for, and a run has none at first."""
    with fake_aws("--accounts", "1", "--regions", REGIONS[0], "--latency", "30") as environment:
        for wait in (0.1, 0.3, 1.0):
            with podman.container(*place(environment), IMAGE) as process:
                number = podman.process_id()
                time.sleep(wait)
                began = time.monotonic()
                os.kill(number, signal.SIGTERM)
                ended = process.wait(GRACE) == 143 and time.monotonic() - began < 5
            check(ended, f"SIGTERM some {wait} s after the start ends it at once with 143")


def interrupted(podman: Podman, out: Path) -> None:
    """SIGTERM in mid-crawl, and the same command once more."""
    estate = ("--accounts", "2", "--regions", ",".join(REGIONS), "--jobs", str(JOBS))
    limit = ("--limit", "DescribeTrainingJob=30/10", "--latency", "0.05")
    options = {
        "ACCOUNTS": "organization", "ROLE_NAME": "InventoryReader", "REGIONS": ",".join(REGIONS),
        "SINK": "/out/jobs.ndjson", "STATE": "/out/state", "REPORT": "/out/report.json",
    }  # fmt: skip
    with fake_aws(*estate, *limit) as environment:
        variables = [f"--env=COLLECTOR_{name}={value}" for name, value in options.items()]
        words = [f"--volume={out}:/out", *place(environment), *variables, IMAGE]
        with podman.container(*words) as process:
            partial = out / "jobs.ndjson.partial"
            while not partial.exists() or partial.stat().st_size < HALF_A_MEGABYTE:
                if process.poll() is not None:
                    raise SystemExit("FAILED: it ended before it could be stopped")
                time.sleep(0.2)
            began = time.monotonic()
            podman("kill", "--signal", "TERM", CONTAINER)
            status, seconds = process.wait(2 * GRACE), time.monotonic() - began
        check(status == 143, "SIGTERM in mid-crawl ends it with 143")
        check(seconds < GRACE, f"... within the grace: {seconds:.1f} s")
        check(any(out.glob("state/*/state.json")), "... with its state saved")
        check(not (out / "jobs.ndjson").exists(), "... and nothing under the final name")
        check(not report(out)["complete"], "... and a report that says so")
        with podman.container(*words) as process:
            check(process.wait() == 0, "the same command again ends with 0")
    lines = (out / "jobs.ndjson").read_text(encoding="utf-8").splitlines()
    jobs = [(row["training_job_arn"], row["creation_time"]) for row in map(json.loads, lines)]
    check(len(jobs) == len(set(jobs)) == 4 * JOBS, f"... with each of {4 * JOBS:,} jobs once")
    describes = report(out)["calls"]["DescribeTrainingJob"]
    kept = 4 * JOBS - (describes["calls"] - describes["throttled"])
    check(kept > 0, f"... {kept:,} of them read by the first run")


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
