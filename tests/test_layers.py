"""Imports point one way: each part of the package knows only what lies beneath it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "collector"

ALLOWED: dict[str, set[str]] = {
    # The bottom: values and errors.
    "errors": set(),
    "model": set(),
    "events": {"model"},
    # What is known of a table and of the settings, and the pure parts of the stream.
    "tables": {"errors", "model"},
    "parse": set(),
    "signals": set(),
    "text": set(),
    "shards": {"errors"},
    "settings": {"errors", "model", "parse", "shards", "tables"},
    "flatten": {"model"},
    "redact": {"model"},
    "listing": {"errors", "flatten", "model"},
    "incremental": {"model"},
    "iam": {"errors", "model", "shards", "sinks", "tables"},
    "schema": {"errors", "model"},
    "validate": {"errors", "model", "schema"},
    # Delivery knows nothing of where records come from.
    "files": set(),
    "sinks": {
        "aws",
        "errors",
        "events",
        "files",
        "model",
        "objects",
        "parse",
        "settings",
        "shards",
        "text",
    },
    # Observers watch the stream and know nothing of it but its events.
    "report": {"events", "model"},
    "report_file": {"errors", "objects", "settings"},
    "report_merge": {"errors", "model", "shards"},
    "progress": {"events", "model", "text"},
    "log": {"events", "model", "text"},
    "tally": {"events", "model"},
    "telemetry": {"__init__", "events", "model", "tally", "text"},
    "emf": {"errors", "events", "model", "settings", "tally"},
    "otlp": {"__init__", "errors", "events", "settings", "telemetry", "text"},
    # The stream, from AWS to the sink.
    "aws": {"__init__", "errors", "events", "model", "settings", "shards", "text"},
    "extract": {
        "__init__",
        "aws",
        "errors",
        "events",
        "flatten",
        "incremental",
        "listing",
        "model",
        "redact",
        "text",
    },
    "crawl": {
        "aws",
        "errors",
        "events",
        "extract",
        "flatten",
        "model",
        "parse",
        "settings",
        "tables",
    },
    "retry_failed": {
        "crawl",
        "errors",
        "events",
        "extract",
        "model",
        "report_file",
        "settings",
    },
    # What is remembered of it, behind the sink.
    "state": {"errors", "model", "text"},
    "objects": {"aws", "errors", "settings", "text"},
    "store": {"__init__", "errors", "files", "objects", "settings"},
    "journal": {
        "__init__",
        "events",
        "extract",
        "incremental",
        "model",
        "settings",
        "sinks",
        "state",
        "store",
    },
    "pipeline": {
        "crawl",
        "errors",
        "events",
        "extract",
        "journal",
        "model",
        "report",
        "retry_failed",
        "settings",
        "shards",
        "sinks",
        "store",
        "tables",
    },
    "blocking": {"events", "model", "pipeline", "settings"},
    # The crawl in parts, for engines; and those.
    "spread": {
        "aws",
        "blocking",
        "crawl",
        "errors",
        "events",
        "extract",
        "incremental",
        "model",
        "objects",
        "parse",
        "pipeline",
        "report",
        "schema",
        "settings",
        "tables",
    },
    "spark": {"errors", "model", "schema", "spread", "tables"},
    # The stand-ins know the table that they serve, and nothing of the crawler.
    "testing": {"errors", "model", "settings", "sinks", "tables"},
}
"""Part of the package to the parts it may import; the command line's own parts may import any."""

ON_TOP = {"__init__", "__main__", "cli", "completion", "console", "demo", "plan"}
"""Parts that the design names and a release may not have yet."""


def is_shared(module: str) -> bool:
    """Whether a sink may know a module: what lies beneath, and what sinks have in common."""
    name = module.removeprefix("collector.sinks.")
    return not module.startswith("collector.sinks.") or name == "base" or name.startswith("_")


AWS_ORDER = [
    "sigv4",
    "wire",
    "sessions",
    "mend",
    "retry",
    "throttle",
    "client",
    "tags",
    "roles",
    "targets",
]
"""Modules of `collector.aws`: each may import those before it."""

PURE = {"errors", "model", "events", "flatten", "redact", "listing", "incremental", "shards"}
"""Parts that import nothing but the standard library and each other."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = modules()


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST, *, late: bool) -> Iterator[ast.AST]:
    """Every node that runs; those inside functions only if ``late``."""
    for node in ast.iter_child_nodes(tree):
        if for_type_checkers(node):
            continue
        if not late and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from nodes(node, late=late)


def imports(name: str, *, late: bool = True) -> set[str]:
    """Full names of the modules that a module imports."""
    found = set()
    for node in nodes(ast.parse(MODULES[name].read_text()), late=late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def part(module: str) -> str:
    """The part of the package that a module belongs to."""
    return [*module.split("."), "__init__"][1]


OURS = {name: {used for used in imports(name) if used in MODULES} for name in MODULES}


def test_every_part_has_its_place():
    """A new part of the package is given a place in the order, here and in the design."""
    parts = {part(name) for name in MODULES}
    assert parts <= ALLOWED.keys() | ON_TOP
    assert ALLOWED.keys() <= parts


@pytest.mark.parametrize("name", sorted(name for name in MODULES if part(name) in ALLOWED))
def test_a_module_imports_only_what_lies_beneath_it(name):
    """Each module keeps to the parts that its own part may know."""
    above = {used for used in OURS[name] if part(used) not in ALLOWED[part(name)] | {part(name)}}
    assert not above


def test_the_order_has_no_circle():
    """The places given here can be put in one order."""
    list(TopologicalSorter(ALLOWED).static_order())


def test_modules_do_not_import_in_circles():
    """Imports made when a module loads never lead back to it."""
    graph = {
        name: {used for used in imports(name, late=False) if used in MODULES} - {name}
        for name in MODULES
    }
    list(TopologicalSorter(graph).static_order())


def test_aws_is_built_from_the_wire_up():
    """Within `collector.aws` too, each module imports only those beneath it."""
    found = {name.rpartition(".")[2] for name in MODULES if name.startswith("collector.aws.")}
    assert found <= set(AWS_ORDER)
    for name in found:
        used = {
            other.rpartition(".")[2]
            for other in OURS[f"collector.aws.{name}"]
            if other.startswith("collector.aws.")
        }
        assert used <= set(AWS_ORDER[: AWS_ORDER.index(name)]), name


def test_sinks_do_not_know_each_other():
    """A sink is one file: it may share `base`, and no sink imports another."""
    for name in MODULES:
        if name.startswith("collector.sinks.") and name != "collector.sinks.base":
            assert all(map(is_shared, OURS[name])), name


def users(*packages: str) -> set[str]:
    return {
        name for name in MODULES if any(used.split(".")[0] in packages for used in imports(name))
    }


def test_only_retry_uses_tenacity():
    """One module decides what is tried again."""
    assert users("tenacity") == {"collector.aws.retry"}


def test_only_aws_talks_to_the_sdk():
    """The SDK is used in one place; the stand-ins may read its service models."""
    parts = {part(name) for name in users("boto3", "botocore", "aiobotocore")}
    assert "aws" in parts
    assert parts <= {"aws", "testing"}


def test_only_aws_and_the_stand_ins_use_http():
    """Requests leave through the wire alone."""
    talkers = {name for name in users("aiohttp") if part(name) != "testing"}
    assert talkers <= {"collector.aws.wire", "collector.aws.retry", "collector.sinks.http"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_parts_need_nothing_else(name):
    """What has no place for input or output imports no package that could do any."""
    outside = {used.split(".")[0] for used in imports(f"collector.{name}")} - {"collector"}
    assert outside <= {
        "__future__",
        "collections",
        "dataclasses",
        "datetime",
        "enum",
        "hashlib",
        "itertools",
        "math",
        "re",
        "types",
        "typing",
    }
