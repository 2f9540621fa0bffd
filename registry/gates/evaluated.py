"""Somebody measured it: a version nobody has scored does not go to production."""

from registry.gates import Verdict
from registry.models import ModelVersion

name = "evaluated"
label = "Evaluated"


def check(version: ModelVersion) -> Verdict:
    newest = version.scores.order_by("-evaluated_at").first()
    if newest is not None:
        return Verdict(name, True, f"Evaluated: {newest}.")
    command = f"manage.py evaluate --model {version} --data DATASET"
    return Verdict(name, False, f"{version} has not been evaluated. Run: {command}")
