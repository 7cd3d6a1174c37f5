import asyncio
import ipaddress
import signal
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_clients import ACCOUNT, REGION, Connect, blocking

from collector.testing import Estate, FakeAws, ManualClock


@pytest.fixture
async def aws():
    async with FakeAws(Estate.generate(jobs=20)) as server:
        yield server


def test_a_thread_serves_callers_that_have_no_loop():
    """in_thread gives the same server to blocking code and leaves nothing behind."""
    with FakeAws(Estate.generate(jobs=5)).in_thread() as aws:
        client = blocking(aws, "sagemaker")
        assert len(client.list_training_jobs()["TrainingJobSummaries"]) == 5
        client.close()
    assert aws.calls["ListTrainingJobs"] == 1


async def test_statistics_tell_who_asked_what(aws, connect: Connect):
    """Calls are counted by operation and place, logged with parameters, and seen in flight."""
    client = await connect(aws)
    clock = ManualClock()
    aws.latency, aws._sleep = 1.0, clock.sleep
    calls = [asyncio.create_task(client.list_training_jobs(MaxResults=5)) for _ in range(4)]
    await clock.until_asleep(4)
    clock.advance(1)
    await asyncio.gather(*calls)
    assert aws.max_in_flight == 4
    assert aws.calls_by == {(ACCOUNT, REGION, "ListTrainingJobs"): 4}
    assert list(aws.requests) == [("ListTrainingJobs", ACCOUNT, REGION, {"MaxResults": 5})] * 4


def test_it_runs_as_a_program_of_its_own():
    """Run by python -m, collector.testing prints what an SDK needs to find it and to be let in."""
    command = [sys.executable, "-m", "collector.testing", "--jobs", "3", "--accounts", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(4)]
            found = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
            client = boto3.client(
                "sagemaker",
                endpoint_url=found["AWS_ENDPOINT_URL"],
                region_name=found["AWS_DEFAULT_REGION"],
                aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
            )
            assert len(client.list_training_jobs()["TrainingJobSummaries"]) == 3
            client.close()
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


async def test_it_speaks_tls(tmp_path):
    """With an SSL context the endpoint is https and signatures verify there as well."""
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with FakeAws(Estate.generate(jobs=3), ssl_context=context) as aws:
        assert aws.url.startswith("https://")
        client = blocking(aws, "sagemaker", verify=str(certificate))
        page = await asyncio.to_thread(client.list_training_jobs)
        assert len(page["TrainingJobSummaries"]) == 3
        client.close()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Files with a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


def test_who_connects_in_the_last_moment_is_hung_up_on():
    """A server that ends leaves no connection open, however late it was accepted."""
    for _ in range(10):
        with FakeAws(Estate.generate(1, ("us-east-1",), 1)).in_thread() as aws:
            place = ("127.0.0.1", int(aws.url.rpartition(":")[2]))
            late = [socket.create_connection(place, timeout=5) for _ in range(4)]
        for connection in late:
            with connection:
                assert connection.recv(1) == b""
