"""Counts like `count`, as a job of a device: its engines are forked from the worker's warm parent."""

from typing import Literal

from project.runner.tests.recipes.count import Params, run

name = "tally"
label = "Tally"
eats = ()
needs: Literal["device"] = "device"

__all__ = ["Params", "eats", "label", "name", "needs", "run"]
