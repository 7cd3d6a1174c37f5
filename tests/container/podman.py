"""Podman for the check of the image: a stand-in for its base, the build, and runs of it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAND_IN = "localhost/collector-check-base"
IMAGE = "localhost/collector-check"
CONTAINER = "collector-check-run"

_PACKAGES = "python3,python3-venv,ca-certificates"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Lower than any machine's own: raising them is what a sandbox refuses first."""


def output(*command: str, **options: object) -> str:
    """What a command prints; its own complaint, and the end, if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... ended with {done.returncode}")
    return done.stdout.strip()


class Podman:
    """Podman with the first OCI runtime that starts a container here."""

    def __init__(self, image: str) -> None:
        for runtime in ("crun", "runc"):
            self._words = ("podman", "--runtime", shutil.which(runtime) or runtime)
            probe = self.run_words("--network", "none", image, "true")
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return
        raise SystemExit("Neither crun nor runc can start a container here.")

    def __call__(self, *words: str) -> str:
        return output(*self._words, *words)

    def run_words(self, *words: str) -> list[str]:
        """The command line of `podman run`, as the README says that the image may be run."""
        hardened = (
            "--read-only",
            "--read-only-tmpfs=false",
            "--tmpfs",
            "/tmp",
            "--cap-drop",
            "all",
        )
        return [*self._words, "run", "--rm", *hardened, *LIMITS, *words]

    def build(self, base: str, *, mark: str) -> None:
        """Build the image on ``base``.

        The settings that pip has on this machine go in as a secret, with ``mark`` in them, so that
        a trace of them can be looked for.
        """
        settings = pip_settings()
        bundle = settings.get("cert", os.environ.get("REQUESTS_CA_BUNDLE"))
        certificates = str(Path(bundle).parent) if bundle else "/etc/ssl/certs"
        lines = [f"# {mark}", "[global]", *(f"{key} = {text}" for key, text in settings.items())]
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as secret:
            secret.write("\n".join([*lines, ""]))
            secret.flush()
            build = ("build", "--quiet", "--no-cache", "--network", "host", *LIMITS)
            given = ("--build-arg", f"BASE={base}", "--secret", f"id=pip,src={secret.name}")
            volume = ("--volume", f"{certificates}:{certificates}:ro")
            self(*build, *given, *volume, "--tag", IMAGE, str(ROOT))

    @contextmanager
    def container(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A container that runs in the background, and is gone at the end whatever happens."""
        command = self.run_words("--name", CONTAINER, *words)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    self("kill", "--signal", "KILL", CONTAINER)

    def process_id(self) -> int:
        """The id, here, of the container's process 1, once there is one."""
        for _ in range(500):
            with_name = ("--filter", f"name=^{CONTAINER}$")
            listed = self("ps", *with_name, "--format", "{{.Pid}}")
            if listed.isdigit() and int(listed):
                return int(listed)
            time.sleep(0.02)
        raise SystemExit("The container does not start.")

    def inspect(self, image: str) -> dict:
        """What podman knows of an image."""
        return json.loads(self("image", "inspect", image))[0]

    def added(self, base: str) -> tuple[int, int]:
        """Bytes of the layers over ``base``: unpacked, and as a registry keeps them."""
        image, below = self.inspect(IMAGE), self.inspect(base)
        with tempfile.TemporaryDirectory() as folder:
            self("push", "--quiet", "--format", "oci", IMAGE, f"oci:{folder}")

            def blob(digest: str) -> dict:
                path = Path(folder, "blobs", *digest.split(":"))
                return json.loads(path.read_text(encoding="utf-8"))

            index = json.loads(Path(folder, "index.json").read_text(encoding="utf-8"))
            layers = blob(index["manifests"][0]["digest"])["layers"]
        over = layers[len(below["RootFS"]["Layers"]) :]
        return image["Size"] - below["Size"], sum(layer["size"] for layer in over)

    def holds(self, text: str) -> bool:
        """Whether the image has these bytes anywhere, in a layer or in its configuration."""
        with subprocess.Popen([*self._words, "save", IMAGE], stdout=subprocess.PIPE) as save:
            before = b""
            while chunk := save.stdout.read(1 << 20):
                if text.encode() in before + chunk:
                    save.stdout.read()
                    return True
                before = chunk[-len(text) :]
        return False


def pip_settings() -> Mapping[str, str]:
    """The settings that pip has on this machine, but for folders that a build cannot see."""
    settings = {}
    for line in output(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, text = line.partition("=")
        key, value = name.rpartition(".")[2], str(ast.literal_eval(text))
        if key == "cert" or not value.startswith(("/", "file:")):
            settings[key] = value
    return settings


@contextmanager
def stand_in() -> Iterator[str]:
    """An image of Debian and its Python, laid out as the image that the Dockerfile names.

    `python` and `pip` are in /usr/local, and nothing of the standard library is compiled.
    """
    with tempfile.TemporaryDirectory() as root:
        output("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", root)
        output("chroot", root, "python3", "-m", "venv", "/usr/local")
        output("chroot", root, "find", "/usr", "-name", "*.pyc", "-delete")
        for waste in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(root, waste))
        archive = ["tar", "--directory", root, "--create", "."]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as tar:
            output("podman", "import", "--quiet", "-", STAND_IN, stdin=tar.stdout)
    try:
        yield STAND_IN
    finally:
        since = ("--filter", "dangling=true", "--filter", f"since={STAND_IN}")
        stages = output("podman", "images", "--quiet", *since).split()
        output("podman", "image", "rm", "--force", IMAGE, *stages, STAND_IN)
