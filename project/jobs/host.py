"""What this host has, before and while a job uses it: disk space, and whether its kernel had to kill for memory."""

import errno
import os
import shutil
from pathlib import Path

from django.conf import settings

from project.contracts.runs import Recipe
from project.jobs.models import Job
from project.kernel.models import Artifact

_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))


def oom_kills() -> int:
    """How many processes the kernel has killed for memory, on this host or in this container; 0 where it can't tell."""
    count = 0
    for path in _COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        count += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return count


def check_disk(recipe: Recipe | None, job: Job) -> None:
    """Raise OSError (ENOSPC) when the disk of the run folders can't hold what the job is going to write.

    A recipe may say how much that is: `disk_bytes(params, {input: bytes})`. MIN_FREE_BYTES is left free in any case.
    """
    wanted = settings.MIN_FREE_BYTES + _wanted(recipe, job)
    free = shutil.disk_usage(settings.RUNS_PATH).free
    if free < wanted:
        gib = 2**30
        raise OSError(
            errno.ENOSPC,
            f"{settings.HOST_NAME} has {free / gib:.1f} GiB free for runs, and this job needs {wanted / gib:.1f} GiB",
        )


def _wanted(recipe: Recipe | None, job: Job) -> int:
    ask = getattr(recipe, "disk_bytes", None)
    if recipe is None or ask is None:
        return 0
    ids = {name: value["artifact"] for name, value in job.inputs.items() if "artifact" in value}
    sizes = {str(pk): size for pk, size in Artifact.objects.filter(pk__in=ids.values()).values_list("pk", "size")}
    inputs = {name: sizes.get(pk, 0) for name, pk in ids.items()}
    for name, value in job.inputs.items():
        if "path" in value:
            inputs[name] = _size(Path(value["path"]))
    params = recipe.Params.model_validate(job.effective_params)
    return int(ask(params, inputs))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(path) for name in names)
