"""Reading YAML and JSON that people wrote, strictly: nothing is executed, doubled keys are errors, size is limited."""

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

from project.kernel.errors import Invalid, TooLarge

MAX_BYTES = 256 * 1024


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `2e-4` is a number, `no`, `12:30` and `2024-01-01` are texts.

    No anchors: a few lines of them can blow up to gigabytes.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: anchors and aliases (& and *) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a field's name must be text")
            if key.value in seen:
                raise yaml.YAMLError(f"line {line}: '{key.value}' is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def read_yaml_or_json(text: str) -> Any:
    """The document in `text`. Raises Invalid, saying which line is wrong, and TooLarge above 256 kB."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise TooLarge(f"A job file has at most {MAX_BYTES // 1024} kB.")
    if not text.strip():
        raise Invalid("The job file is empty.")
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_without_doubles)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a subclass of SafeLoader)
    except RecursionError:
        raise Invalid("The job file is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise Invalid(f"Not valid JSON: line {error.lineno}: {error.msg}.") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Invalid(f"Not valid YAML: {where}{error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise Invalid(f"Not a valid job file: {str(error).splitlines()[0]}.") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"'{key}' is there twice")
        seen[key] = value
    return seen
