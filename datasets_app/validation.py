"""The validation report of a version, made while its rows stream by. Pure.

A check is one module in `datasets_app/checks/` (or named by an entry point `tuneloop.checks`) with `name`, `label` and
`Check`, a class of which one object sees every row once. It may keep a few bytes per row, never the rows.

Severities: an `error` is fatal, a version that has one can't be trained on until an operator lifts the block. A
`warning` is to be looked at, `info` to be known. What is harmless in one row of a thousand and fatal in every tenth is
judged by `grave`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from datasets_app.importing import Entry
from datasets_app.reading import BadLine, excerpt
from project.contracts.plugins import Plugins

KEPT_EXAMPLES = 20
GRAVE_SHARE = 0.01  # of the rows
_AT_ONCE, _CHARACTERS_AT_ONCE = 512, 4_000_000  # rows that wait to be checked together

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Example:
    """One row that shows a finding. `row` counts from 1 within the version, `line` within the file; 0 is none."""

    row: int
    line: int
    text: str


@dataclass(frozen=True)
class Finding:
    """Something to know about the data: what, how often, what to do. `title` is a plain sentence.

    `fix` are the preparation steps that mend it, as a job file has them; none where only a person can.
    """

    check: str
    severity: Severity
    title: str
    count: int
    advice: str = ""
    examples: tuple[Example, ...] = ()
    fix: tuple[Mapping[str, Any], ...] = ()


class RowCheck(Protocol):
    """What sees the rows. `findings` and `figures` are asked once, at the end. One may have `see_all` (`SeesMany`)."""

    def see(self, entry: Entry) -> None: ...

    def findings(self) -> Iterable[Finding]: ...

    def figures(self) -> Mapping[str, Any]:
        """JSON for the report under the check's name; empty for none."""


@runtime_checkable
class SeesMany(Protocol):
    """A check that can rule out most rows at once."""

    def see_all(self, entries: Sequence[Entry]) -> None:
        """`see` for some rows in their order."""


class Check:
    """A check that finds nothing: override what you need."""

    def see(self, entry: Entry) -> None: ...

    def see_all(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.see(entry)

    def findings(self) -> Iterable[Finding]:
        return ()

    def figures(self) -> Mapping[str, Any]:
        return {}


class CheckPlugin(Protocol):
    name: str
    label: str
    Check: type[RowCheck]


CHECKS: Plugins[CheckPlugin] = Plugins(
    kind="check", group="tuneloop.checks", packages=("datasets_app.checks",), required=("label", "Check")
)

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


def grave(count: int, rows: int) -> Severity:
    """`error` when one row in a hundred or more is concerned, else `warning`."""
    return "error" if count >= GRAVE_SHARE * rows else "warning"


@dataclass
class Examples:
    """All counted, the first few kept."""

    count: int = 0
    kept: list[Example] = field(default_factory=list)

    def add(self, entry: Entry, text: str) -> None:
        self.count += 1
        if len(self.kept) < KEPT_EXAMPLES:
            self.kept.append(Example(entry.number, entry.line, excerpt(text)))


class Validation:
    """All checks over one pass."""

    def __init__(self) -> None:
        self._checks: dict[str, RowCheck] = {plugin.name: plugin.Check() for plugin in CHECKS.all()}
        self._rows = 0
        self._waiting: list[Entry] = []
        self._characters = 0

    def see(self, entry: Entry) -> None:
        """The checks see it soon: with the next ones."""
        self._rows += 1
        self._waiting.append(entry)
        self._characters += len(entry.data)
        if len(self._waiting) >= _AT_ONCE or self._characters >= _CHARACTERS_AT_ONCE:
            self._pass_on()

    def _pass_on(self) -> None:
        waiting, self._waiting, self._characters = self._waiting, [], 0
        for check in self._checks.values() if waiting else ():
            if isinstance(check, SeesMany):
                check.see_all(waiting)
            else:
                for entry in waiting:
                    check.see(entry)

    def report(self, bad_lines: Iterable[BadLine], bad_count: int, **facts: Any) -> dict[str, Any]:
        """The report as JSON: `summary`, `findings` (worst first), one entry per check with figures, and `facts`."""
        self._pass_on()
        bad = list(bad_lines)
        findings = [finding for check in self._checks.values() for finding in check.findings()]
        if bad_count:
            findings.append(_skipped(bad, bad_count))
        findings.sort(key=lambda finding: (_ORDER[finding.severity], -finding.count))
        figures = {name: dict(found) for name, check in self._checks.items() if (found := check.figures())}
        return {
            "summary": {
                "rows": self._rows,
                "bad_lines": bad_count,
                **{severity: sum(f.severity == severity for f in findings) for severity in _ORDER},
                **{name: sum(f.count for f in findings if f.check == name) for name in ("empty_fields", "duplicates")},
            },
            "bad_lines": [{"line": line.line, "reason": excerpt(line.reason, 400)} for line in bad],
            "findings": [asdict(finding) for finding in findings],
            "figures": figures,
            **facts,
        }


def _skipped(bad: list[BadLine], count: int) -> Finding:
    what = "line could not be read and is left out" if count == 1 else "lines could not be read and are left out"
    return Finding(
        check="bad_lines",
        severity="warning",
        title=f"{count:,} {what}",
        count=count,
        advice="Correct them in the file and upload it as a new version.",
        examples=tuple(Example(0, line.line, excerpt(line.reason)) for line in bad[:KEPT_EXAMPLES]),
    )
