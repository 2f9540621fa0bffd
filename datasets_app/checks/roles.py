"""Conversations whose turns are in an order no chat template expects, or that end before the answer."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding, grave
from project.contracts.rows import RowKind

name = "roles"
label = "Roles and turns"

# problem -> (what several do, what one does, what to do)
_PROBLEMS: dict[str, tuple[str, str, str]] = {
    "no_answer": (
        "conversations have no assistant turn",
        "conversation has no assistant turn",
        "There is nothing to learn in them. Remove them.",
    ),
    "ends_early": (
        "conversations end without an assistant turn",
        "conversation ends without an assistant turn",
        "What follows the last answer is never learned from.",
    ),
    "late_system": (
        "conversations have a system message that is not the first",
        "conversation has a system message that is not the first",
        "Many chat templates refuse that or drop it.",
    ),
    "answer_first": (
        "conversations begin with the assistant",
        "conversation begins with the assistant",
        "Many chat templates want the user first.",
    ),
    "same_twice": (
        "conversations have two turns of the same role in a row",
        "conversation has two turns of the same role in a row",
        "Many chat templates refuse that. Join the turns.",
    ),
}

_FIXES = {
    "no_answer": ({"type": "filter", "condition": '"assistant" in roles'},),
}


class Check(BaseCheck):
    def __init__(self) -> None:
        self._problems = {problem: Examples() for problem in _PROBLEMS}
        self._turns: Counter[int] = Counter()
        self._roles: Counter[str] = Counter()
        self._with_system = self._rows = 0

    def see(self, entry: Entry) -> None:
        if entry.value["kind"] != RowKind.CHAT:
            return
        roles = [message["role"] for message in entry.value["messages"]]
        self._rows += 1
        self._turns[len(roles)] += 1
        self._roles.update(roles)
        self._with_system += "system" in roles
        for problem in problems(roles):
            self._problems[problem].add(entry, " → ".join(roles[:12]))

    def findings(self) -> Iterable[Finding]:
        for problem, found in self._problems.items():
            if found.count:
                many, one, advice = _PROBLEMS[problem]
                severity = grave(found.count, self._rows) if problem == "no_answer" else "warning"
                title = f"{found.count:,} {many if found.count > 1 else one}"
                yield Finding(name, severity, title, found.count, advice, tuple(found.kept), _FIXES.get(problem, ()))

    def figures(self) -> Mapping[str, Any]:
        if not self._turns:
            return {}
        rows = sum(self._turns.values())
        turns = sum(number * times for number, times in self._turns.items())
        return {
            "roles": dict(self._roles),
            "turns_mean": round(turns / rows, 2),
            "turns_most": max(self._turns),
            "with_system": self._with_system,
        }


def problems(roles: Sequence[str]) -> Iterable[str]:
    """What is wrong with the order of these roles."""
    talk = [role for role in roles if role != "system"]
    if "assistant" not in talk:
        yield "no_answer"
    elif talk[-1] != "assistant":
        yield "ends_early"
    if "system" in roles[1:]:
        yield "late_system"
    if talk and talk[0] == "assistant":
        yield "answer_first"
    if any(a == b and a != "tool" for a, b in pairwise(talk)):
        yield "same_twice"
