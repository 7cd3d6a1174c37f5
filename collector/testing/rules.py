"""Checks of request parameters, with the messages that AWS's own validation gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collector.model import Wire
from collector.testing.world import AwsError


@dataclass(frozen=True, slots=True)
class Rule:
    """What one parameter may be. ``kind`` is int, float (a timestamp), str, bool or list."""

    kind: type
    low: int | None = None
    high: int | None = None
    among: tuple[str, ...] = ()
    pattern: str = ""
    required: bool = False

    def problem(self, value: Any) -> str | None:
        """The constraint that ``value`` breaks, in AWS's words, or None."""
        if self.among and value not in self.among:
            return f"satisfy enum value set: [{', '.join(self.among)}]"
        size = value if self.kind is int else len(value) if self.kind in {str, list} else 0
        unit = "value" if self.kind is int else "length"
        if self.low is not None and size < self.low:
            return f"have {unit} greater than or equal to {self.low}"
        if self.high is not None and size > self.high:
            return f"have {unit} less than or equal to {self.high}"
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"satisfy regular expression pattern: {self.pattern}"
        return None


def check(params: Wire, rules: Mapping[str, Rule], code: str = "ValidationException") -> None:
    """Raise what AWS answers to parameters that break ``rules``. Unknown ones are ignored."""
    problems = []
    for name, rule in rules.items():
        value = params.get(name)
        member = name[0].lower() + name[1:]
        if value is None:
            if rule.required:
                problems.append(
                    f"Value null at '{member}' failed to satisfy constraint: "
                    "Member must not be null"
                )
            continue
        _check_type(rule, value)
        problem = rule.problem(value)
        if problem:
            problems.append(
                f"Value '{value}' at '{member}' failed to satisfy constraint: Member must {problem}"
            )
    if problems:
        plural = "s" if len(problems) > 1 else ""
        found = "; ".join(problems)
        raise AwsError(code, f"{len(problems)} validation error{plural} detected: {found}")


def _check_type(rule: Rule, value: Any) -> None:
    allowed = (int, float) if rule.kind is float else rule.kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and rule.kind is not bool):
        kind = {int: "Integer", float: "Timestamp", str: "String"}.get(rule.kind, "List")
        raise AwsError(
            "SerializationException",
            f"{type(value).__name__.upper()}_VALUE can not be converted to {kind}",
        )
