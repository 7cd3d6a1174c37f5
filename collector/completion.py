"""What a shell offers after an option: choices, tables, statuses, regions, files.

Click asks the program itself at each <TAB>, so what is offered is what this release takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

_FILES = {"report", "retry_failed", "sink"}
_FOLDERS = {"state"}
_SCHEMES = {
    "sink": ("-", "s3://", "gs://", "az://", "file:///", "firehose://", "kinesis://", "https://"),
    "state": ("s3://", "gs://", "az://"),
}


def completer(
    name: str, field: Any
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """The callback that offers values of the setting ``name``; `multiple` ones after a comma."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        values = _values(name, field, ctx.params.get("table"))
        head, comma, last = incomplete.rpartition(",")
        if not comma or name in _SCHEMES:
            head, last = "", incomplete
        found = [CompletionItem(f"{head}{comma}{v}") for v in values if v.startswith(last)]
        if not found and name in _FILES | _FOLDERS:
            return [CompletionItem(incomplete, type="dir" if name in _FOLDERS else "file")]
        return found

    return complete


def _values(name: str, field: Any, table_name: Any) -> Iterable[str]:
    """What the setting takes, as far as it can be listed."""
    if name in _SCHEMES:
        return _SCHEMES[name]
    if name == "accounts":
        return ("current", "organization")
    if name == "regions":
        return ("all", *_regions())
    if name in {"table", "status", "redact", "max_rate"}:
        from collector.tables import DEFAULT, load_table, table_names  # noqa: PLC0415

        if name == "table":
            return table_names()
        table = load_table(table_name or DEFAULT)
        return {
            "status": table.statuses,
            "redact": [f"{c}={how}" for c in table.sensitive for how in ("values", "matching")],
            "max_rate": [f"{operation}=" for operation in table.operations],
        }[name]
    return [str(value) for value in getattr(field.annotation, "__args__", ()) if value is not None
            and isinstance(value, str)]  # fmt: skip


def _regions() -> list[str]:
    from collector.aws.sessions import Sdk  # noqa: PLC0415

    return asyncio.run(Sdk().regions("sagemaker", "aws"))


class _Bash(BashComplete):
    """Bash takes `environment=values` for three words; we do not, and answer with the third."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        for word in [*args, incomplete]:
            if words and (word == "=" or words[-1].endswith("=")) and words[-1] != "--":
                words[-1] += word
            else:
                words.append(word)
        *args, incomplete = words
        self._given = incomplete.rpartition("=")[0]
        return args, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        cut = len(self._given) + 1 if self._given and item.value.startswith(self._given) else 0
        return f"{item.type},{item.value[cut:]}"


add_completion_class(_Bash)
