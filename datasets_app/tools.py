"""Calls of functions and their descriptions, from the ways people write them to OpenAI's. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from datasets_app.formats._strict_json import NotJson, kind_of, loads


class BadRow(ValueError):
    """Why a record is no row of its shape, as the end of a sentence."""


_COMPACT = json.JSONEncoder(ensure_ascii=False)


def calls_of(message: Mapping[str, Any], where: str, role: str, *, as_value: bool = False) -> list[dict[str, Any]]:
    """The calls a message makes; none for most. Raises BadRow.

    They are written as `tool_calls`, as the older `function_call`, or (`as_value`) as JSON in the message's value.
    """
    found = message.get("tool_calls")
    if isinstance(found, str) and found.strip():
        found = _parsed(found, f"the tool_calls of {where}")
    if not found and message.get("function_call"):
        found = [{"function": message["function_call"]}]
    if not found and as_value:
        value = _parsed(message.get("value", message.get("content")), f"the call in {where}")
        found = value if isinstance(value, list) else [value]
    if not found:
        return []
    if role != "assistant":
        raise BadRow(f"{where} has tool_calls, but only an assistant's turn can call tools.")
    if not isinstance(found, list):
        raise BadRow(f"the tool_calls of {where} have to be a list, they are {kind_of(found)}.")
    return [_call(call, f"tool call {number} of {where}") for number, call in enumerate(found, 1)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRow(f"{where} has to be an object with a function that has a name.")
    arguments = function.get("arguments", function.get("parameters"))
    if arguments is None:
        arguments = "{}"
    if not isinstance(arguments, str):
        arguments = _COMPACT.encode(arguments)
    result: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call.get("id"), str) and call["id"]:
        result["id"] = call["id"]
    return result


def descriptions(value: Any, where: str) -> list[dict[str, Any]]:
    """The functions a row describes: a list of objects with names, or that as JSON in a text. Raises BadRow."""
    if isinstance(value, str):
        value = _parsed(value, where) if value.strip() else None
    if not value:
        return []
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        raise BadRow(f"{where} has to be a list of functions, it is {kind_of(value)}.")
    for number, tool in enumerate(value, 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"function {number} of {where} has to be an object with a name.")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        raise BadRow(f"{where} has to be JSON, it is {kind_of(value)}.")
    try:
        return loads(value)
    except NotJson as error:
        raise BadRow(f"{where} has to be JSON: {error}") from None
