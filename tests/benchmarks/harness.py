"""Shared by the benchmarks: a fake AWS in its own process, and the cost of a child process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from collector.testing import credentials_for

CALLER = "111111111111"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU (user and system) and wall seconds, and peak memory in MB, of a finished process."""

    cpu: float
    wall: float
    peak: float
    output: str


@contextmanager
def fake_aws(*arguments: str) -> Iterator[dict[str, str]]:
    """Runs ``python -m collector.testing``; yields the environment to reach it with."""
    command = [sys.executable, "-m", "collector.testing", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = ""
        while not url:
            line = server.stdout.readline()
            if not line:
                raise RuntimeError("the fake AWS did not start")
            if "AWS_ENDPOINT_URL=" in line:
                url = line.split("=", 1)[1].strip().strip("'\"")
        access_key, secret_key = credentials_for(CALLER)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        yield {
            **clean,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        server.terminate()
        server.wait()


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end, with its own CPU and memory as the kernel counted them."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    wall = time.perf_counter() - start
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, output)
