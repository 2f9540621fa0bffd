"""Somebody measured it: a version nobody has scored does not go to production."""

from registry.actions import scores
from registry.gates import Verdict
from registry.models import ModelVersion

name = "evaluated"
label = "Evaluated"


def check(version: ModelVersion) -> Verdict:
    found = scores.newest([version]).get(version.pk, [])
    if found:
        return Verdict(name, True, f"{scores.main(found) or found[0]}.")
    command = f"manage.py evaluate --model {version} --data DATASET"
    return Verdict(name, False, f"{version} has not been evaluated. Run: {command}")
