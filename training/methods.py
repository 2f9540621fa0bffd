"""Which method can answer where: what the methods say of themselves, as a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.engine.methods_registry import TARGETS, Method, MethodSettings, in_order, served

WORDS = {"model": "whole model", "adapter": "adapter", "merged": "merged", "no": "no"}


@dataclass(frozen=True)
class Answering:
    """How a result gets to one target: `way` is model (a whole one), adapter, merged or no."""

    target: str
    way: str
    remark: str

    @property
    def words(self) -> str:
        return WORDS[self.way]


@dataclass(frozen=True)
class Line:
    """One method, with settings that have a name of their own."""

    method: Method
    label: str
    settings: MethodSettings

    @property
    def answering(self) -> list[Answering]:
        return [Answering(target, *served(self.settings, target)) for target in TARGETS]

    @property
    def refuses(self) -> dict[str, str]:
        return dict(self.settings.refuses)

    @property
    def summary(self) -> str:
        return " ".join((self.method.Settings.__doc__ or "").split())

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "label": self.label,
            "prominent": self.method.prominent,
            "settings": self.settings.model_dump(mode="json"),
            "summary": self.summary,
            "merges": self.settings.merges,
            "refuses": self.refuses,
            "targets": {one.target: {"way": one.way, "remark": one.remark} for one in self.answering},
        }


def matrix() -> list[Line]:
    """Every variant of every method, the prominent ones first."""
    return list(_lines())


def _lines() -> Iterator[Line]:
    for method in in_order():
        for label, values in method.variants.items():
            yield Line(method, label, method.Settings.model_validate({"type": method.name, **values}))
