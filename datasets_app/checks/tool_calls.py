"""Calls of tools that no program could carry out: arguments that are no JSON object, tools nobody declared."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding, grave
from project.contracts.rows import RowKind

name = "tool_calls"
label = "Tool calls"


class Check(BaseCheck):
    def __init__(self) -> None:
        self._tools: Counter[str] = Counter()
        self._invalid, self._unknown, self._unanswered = Examples(), Examples(), Examples()
        self._rows = 0

    def see(self, entry: Entry) -> None:
        if "tool" not in entry.data or entry.value["kind"] != RowKind.CHAT:
            return
        row = entry.value
        calls = [call for message in row["messages"] for call in message.get("tool_calls") or ()]
        if not calls:
            return
        self._rows += 1
        self._look(entry, calls, {tool["function"]["name"] for tool in row.get("tools") or ()})
        answered = {message.get("tool_call_id") for message in row["messages"] if message["role"] == "tool"}
        followed = row["messages"][-1].get("tool_calls") is None
        if followed and any(call.get("id") and call["id"] not in answered for call in calls) and None not in answered:
            self._unanswered.add(entry, "the conversation goes on without the tool's answer")

    def _look(self, entry: Entry, calls: list[Mapping[str, Any]], declared: set[str]) -> None:
        for call in calls:
            function = call["function"]
            self._tools[function["name"]] += 1
            if reason := invalid(function["arguments"]):
                self._invalid.add(entry, f"{function['name']}: {reason}")
            elif declared and function["name"] not in declared:
                self._unknown.add(entry, f"{function['name']} is called, declared are {', '.join(sorted(declared))}")

    def findings(self) -> Iterable[Finding]:
        if count := self._invalid.count:
            title = "tool calls have" if count > 1 else "tool call has"
            yield Finding(
                name,
                grave(count, self._rows),
                f"{count:,} {title} arguments that are no JSON object",
                count,
                "The model would learn to call tools in a way that fails. Correct them in the file.",
                tuple(self._invalid.kept),
            )
        for found, title, advice in (
            (self._unknown, "tool calls name a tool that the row does not declare", "Add it to the row's tools."),
            (self._unanswered, "conversations go on without a tool's answer", "Chat templates expect one a call."),
        ):
            if found.count:
                yield Finding(name, "warning", f"{found.count:,} {title}", found.count, advice, tuple(found.kept))

    def figures(self) -> Mapping[str, Any]:
        return {"rows": self._rows, "tools": dict(self._tools.most_common(50))} if self._tools else {}


def invalid(arguments: str) -> str:
    """Why these are not the arguments of a call; empty when they are."""
    try:
        value = json.loads(arguments)
    except ValueError as error:
        return f"not valid JSON ({error})"
    return "" if isinstance(value, dict) else "not a JSON object"
