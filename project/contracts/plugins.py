"""How one new file adds a recipe, a format, a check, a metric, a target or a gate.

A plug-in is a module with the attributes its kind requires. Built-ins are found by scanning folders; other
packages join by an entry point that names a module. A broken plug-in is listed by `broken()` and stops nobody.

While you write one, no packaging is needed: put the package on `PYTHONPATH` and name it in the environment variable
of its kind (comma-separated), `TUNELOOP_EXTRA_RECIPES=mypackage.recipes`, for the web process, the workers and the
engines alike; it is scanned as the built-in folders are.
"""

import difflib
import importlib
import os
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

P = TypeVar("P")


class UnknownPlugin(LookupError):
    """A name nobody registered. The message suggests the nearest known one."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        self.kind, self.name, self.known = kind, name, known
        self.suggestion = next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)
        hint = f"Did you mean '{self.suggestion}'?" if self.suggestion else f"Known: {', '.join(known) or 'none'}."
        super().__init__(f"Unknown {kind} '{name}'. {hint}")


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that could not be loaded, and why."""

    kind: str
    module: str
    reason: str


def _modules_in(package: str) -> Iterator[str]:
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:  # a parent of it is not installed
        return
    if spec is not None:
        for info in pkgutil.iter_modules(spec.submodule_search_locations or []):
            if not info.name.startswith("_"):
                yield f"{package}.{info.name}"


PLUGINS: list["Plugins[Any]"] = []  # every kind there is, for `manage.py plugins`


@dataclass
class Plugins(Generic[P]):
    """The plug-ins of one kind, loaded on first use.

    `packages` are scanned (a package that is not installed is skipped), `group` is the entry point group, `required`
    the attributes a module must have. Every plug-in has a `name`.
    """

    kind: str
    group: str
    packages: tuple[str, ...]
    required: tuple[str, ...] = ()
    _broken: list[BrokenPlugin] = field(default_factory=list)

    def __post_init__(self) -> None:
        PLUGINS.append(self)

    @cached_property
    def _found(self) -> dict[str, P]:
        found: dict[str, P] = {}
        for module_name in self._module_names():
            try:
                module = importlib.import_module(module_name)
                self._check(module, found)
            except Exception as error:  # a third party's code: anything may happen, and it must stop nobody
                self._broken.append(BrokenPlugin(self.kind, module_name, f"{type(error).__name__}: {error}"))
            else:
                found[cast(Any, module).name] = cast(P, module)
        return dict(sorted(found.items()))

    @property
    def extra_variable(self) -> str:
        """The environment variable that names more packages to scan: TUNELOOP_EXTRA_RECIPES, ..._METRICS and so on."""
        return f"TUNELOOP_EXTRA_{self.kind.upper()}S"

    def _module_names(self) -> Iterator[str]:
        for package in self.packages:
            yield from _modules_in(package)
        for package in filter(None, (name.strip() for name in os.environ.get(self.extra_variable, "").split(","))):
            names = list(_modules_in(package))
            if not names:
                reason = f"{self.extra_variable} names no package on the path"
                self._broken.append(BrokenPlugin(self.kind, package, reason))
            yield from names
        for point in entry_points(group=self.group):
            yield point.value

    def _check(self, module: ModuleType, found: dict[str, P]) -> None:
        missing = [attribute for attribute in ("name", *self.required) if not hasattr(module, attribute)]
        if missing:
            raise TypeError(f"a {self.kind} needs {', '.join(missing)}")
        if module.name in found:
            raise ValueError(f"the name '{module.name}' is taken")

    def get(self, name: str) -> P:
        """The plug-in called `name`. Raises UnknownPlugin."""
        if name not in self._found:
            raise UnknownPlugin(self.kind, name, list(self._found))
        return self._found[name]

    def all(self) -> list[P]:
        return list(self._found.values())

    def names(self) -> list[str]:
        return list(self._found)

    def broken(self) -> list[BrokenPlugin]:
        """Plug-ins that failed to load. Loads them first, so the answer is complete."""
        self.names()
        return list(self._broken)
