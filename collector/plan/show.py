"""A plan as text for a person: problems first, what is alike together, 80 columns if need be."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.model import Outcome
from collector.plan.model import Preflight, TargetPlan
from collector.text import clean

WIDE = 200
"""Columns where the text goes to a file or a pipe."""

MOST_ROWS = 24
"""Targets of one kind that get a row each; more of them are summed, by region."""

_MOST_NAMED = 6
"""Accounts that a sentence names; the others are counted, and in the JSON."""

_BAD = (Outcome.DENIED, Outcome.FAILED)
_COLUMNS = ("account", "region", "outcome", "jobs", "calls", "time")
_SPANS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def width() -> int:
    """Columns that stdout has."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def render(plan: Preflight, *, width: int) -> str:
    """The whole plan as lines of at most ``width`` columns, policies apart."""
    wrap = textwrap.TextWrapper(width=max(width, 40), subsequent_indent="         ",
                                break_on_hyphens=False)  # fmt: skip
    lines: list[str] = []

    def say(label: str, text: str) -> None:
        lines.extend(wrap.wrap(f"{label:<9}{clean(text)}"))

    say("caller", f"{plan.caller['arn']} (account {plan.caller['account_id']})")
    if plan.regions_told_by:
        told = (f"{by} in {_count(n, 'account')}" for by, n in plan.regions_told_by.items())
        say("regions", "told by " + ", ".join(told))
    for place in plan.places:
        state = "" if place.outcome == "ok" else f"{place.outcome}: "
        say(place.kind, f"{place.place}: {state}{place.detail}")
    bad = [each for each in plan.targets if each.outcome in _BAD]
    good = [each for each in plan.targets if each.outcome not in _BAD]
    if plan.targets:
        lines += ["", *_table([*_rows(bad), *_rows(good)], width).splitlines()]
    _tell_problems(bad, lines.append, wrap)
    lines.append("")
    say("in all", _in_all(plan))
    for warning in plan.warnings:
        say("warning", warning)
    lines += _advice(plan, wrap)
    return "\n".join(lines) + "\n"


def _rows(plans: Sequence[TargetPlan]) -> Iterator[tuple[str, ...]]:
    """A row for each target, or for each region and outcome where there are too many."""
    groups: dict[Any, list[TargetPlan]] = defaultdict(list)
    for plan in plans:
        key = (plan.region, plan.outcome)
        groups[key if len(plans) > MOST_ROWS else (*key, plan.account_id)].append(plan)
    for group in groups.values():
        first = group[0]
        more = "+" if any(plan.at_least for plan in group) else ""
        account = first.account_id if len(plans) <= MOST_ROWS else _count(len(group), "account")
        yield (
            account,
            first.region,
            first.outcome,
            f"{sum(plan.listed for plan in group):,}{more}",
            f"{sum(plan.calls for plan in group):,}{more}",
            f"{span(max(plan.seconds for plan in group))}{more}",
        )


def _table(rows: Iterable[tuple[str, ...]], width: int) -> str:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in _COLUMNS:
        right = name in _COLUMNS[3:]
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    out = StringIO()
    Console(file=out, width=max(width, 40), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _tell_problems(
    plans: Sequence[TargetPlan], add: Callable[[str], None], wrap: textwrap.TextWrapper
) -> None:
    """What is wrong, once for all the targets that it is wrong with."""
    groups: dict[tuple[str, ...], list[TargetPlan]] = defaultdict(list)
    for plan in plans:
        why = plan.missing or [(plan.error or "").split(":")[0]]
        groups[plan.outcome, *why].append(plan)
    for (outcome, *_), group in groups.items():
        first = group[0]
        what = ", ".join(first.missing) or "could not be looked at"
        places = [f"{plan.account_id} {plan.region}" for plan in group]
        add("")
        for line in wrap.wrap(f"{outcome:<9}{what} in {_some(places)}"):
            add(line)
        if first.error:
            for line in wrap.wrap(f"{'':<9}{clean(first.error)}"):
                add(line)


def _in_all(plan: Preflight) -> str:
    totals = plan.totals
    least = "at least " if totals["at_least"] else "about "
    text = (
        f"{_count(totals['targets'], 'target')}: {least}{_count(totals['listed'], 'job')} to list, "
        f"{totals['described']:,} to describe, {_count(totals['calls'], 'call')}, "
        f"{span(totals['seconds'])}"
    )
    if totals["at_least"]:
        text += " (of some targets only the first page is known; with state, or narrowed by "
        text += "--created-after, more is)"
    return text


def _advice(plan: Preflight, wrap: textwrap.TextWrapper) -> list[str]:
    """What to add to whose policy, and what no policy of theirs would help."""
    lines: list[str] = []
    for entry in plan.blocked:
        who = _whose(entry)
        lines += ["", *wrap.wrap(
            f"{', '.join(entry['actions'])}: {entry['by']} stands against {who}. Adding a "
            "statement to its policy will not help: that other policy has to change."
        )]  # fmt: skip
    for grant in plan.grants:
        who = _whose(grant)
        needed = "" if grant["needed"] else "Not needed, but of use: "
        head = f"{needed}{'A' if not needed else 'a'}dd this to the policy of {who}:"
        lines += ["", *wrap.wrap(head)]
        lines.append(orjson.dumps(grant["policy"], option=orjson.OPT_INDENT_2).decode())
        if "sts:AssumeRole" in grant["actions"]:
            lines += wrap.wrap(
                "Where it has that already, the role is not there or does not trust the caller: "
                "`collector iam-policy --trust` prints the role's side."
            )
    return lines


def _whose(entry: dict[str, Any]) -> str:
    if entry["identity"] == "caller":
        return f"the caller, {entry['name']}"
    return f"the role {entry['name']} in {_some(entry['accounts'])}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3.5 min, 2.0 h."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:g} s"  # noqa: PLR2004
