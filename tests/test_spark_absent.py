"""Spark is an extra: the core neither needs nor loads it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

HEAVY = ("pyspark", "pyarrow", "pandas", "py4j")


def python(*lines):
    """What a fresh interpreter prints, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip(), done.stderr.strip()


def test_without_the_extra_the_import_says_what_to_install():
    """One sentence, with the command, on the last line of the error; and nothing before it."""
    _, error = python("import sys", "sys.modules['pyspark'] = None", "import collector.spark")
    assert error.splitlines()[-1] == (
        "ImportError: collector.spark needs pyspark 4: install it with "
        "`pip install 'aws-resource-collector[spark]'` on the driver and on every executor."
    )
    assert "During handling" not in error


def test_the_core_loads_nothing_of_it():
    """A crawl, and even its parts, import neither Spark nor Arrow until they are asked for rows."""
    modules = ("collector", "collector.pipeline", "collector.cli", "collector.spread.read")
    loaded, error = python(
        "import sys",
        f"import {', '.join(modules)}",
        f"print([m for m in {HEAVY} if m in sys.modules])",
    )
    assert (loaded, error) == ("[]", "")


def test_the_core_install_has_not_grown():
    """Nobody gets Spark who has not asked for it."""
    needed = [line for line in requires("aws-resource-collector") or () if line.startswith(HEAVY)]
    assert needed
    assert all("extra ==" in line for line in needed)
