"""Markdown: every field of a table, nested ones too, as a table to read."""

from __future__ import annotations

from collections.abc import Iterator

from collector.model import Column


def render(name: str, columns: tuple[Column, ...]) -> str:
    rows = [row for column in columns for row in _rows(column)]
    head = ("Column", "Type", "AWS member", "Description")
    lines = [_line(head), _line(("---",) * len(head)), *map(_line, rows)]
    return f"# {name}\n\n" + "\n".join(lines)


def _rows(column: Column, above: tuple[str, str] = ("", "")) -> Iterator[tuple[str, ...]]:
    """The column's row, then its members', with the names ``above`` them and dots between."""
    name = above[0] + column.name
    provider = above[1] + column.provider if column.provider else ""
    member = f"`{provider}`" if provider else ""
    yield (f"`{name}`", column.type.value, member, column.description)
    for field in column.fields:
        yield from _rows(field, (f"{name}.", f"{provider}."))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
