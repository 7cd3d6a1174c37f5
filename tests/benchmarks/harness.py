"""Shared by the benchmarks: a fake AWS in its own process, and the cost of a child process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collector.testing import credentials_for

CALLER = "111111111111"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU (user and system) and wall seconds, and peak memory in MB, of a finished process."""

    cpu: float
    wall: float
    peak: float
    output: str


def make_certificate(path: Path) -> None:
    """A key and a certificate of 127.0.0.1 that signs itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake AWS")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))


def environment_of(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without its AWS configuration, and with what leads to a fake at ``url``."""
    access_key, secret_key = credentials_for(CALLER)
    clean = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    return clean | {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def fake_aws(*arguments: str, certificate: Path | None = None) -> Iterator[dict[str, str]]:
    """Runs ``python -m collector.testing``; yields the environment to reach it with."""
    tls = ["--certificate", str(certificate)] if certificate else []
    command = [sys.executable, "-m", "collector.testing", *arguments, *tls]
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
        bundle = {"AWS_CA_BUNDLE": str(certificate)} if certificate else {}
        yield environment_of(url, os.environ) | bundle
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
