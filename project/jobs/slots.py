"""The places of a host: made once, taken in the transaction that starts work, given back in the one that ends it."""

import os
import subprocess
from functools import cache

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from project.jobs.models import DeviceSlot, Job, Queue
from project.kernel.errors import Conflict

SERVING = "serving"


@cache
def gpus() -> int:
    """GPUs that this process may use (CUDA_VISIBLE_DEVICES counts), found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def limit(queue: str) -> int:
    """How many jobs of a queue run on one host at the same time."""
    return settings.MAX_TRAINING_JOBS if queue == Queue.GPU else settings.MAX_CPU_JOBS


def device(queue: str, number: int) -> str:
    """The device of a place. More places than GPUs share them in turn."""
    return f"cuda:{number % gpus()}" if queue == Queue.GPU and gpus() else "cpu"


def ensure(host: str, queue: str) -> None:
    """Make the places of a queue on this host; take away free ones beyond the limit, which may have been lowered."""
    known = set(DeviceSlot.objects.filter(host=host, queue=queue).values_list("number", flat=True))
    wanted = range(limit(queue))
    DeviceSlot.objects.bulk_create(
        [DeviceSlot(host=host, queue=queue, number=n, device=device(queue, n)) for n in wanted if n not in known],
        ignore_conflicts=True,
    )
    DeviceSlot.objects.filter(host=host, queue=queue, number__gte=len(wanted), job=None).delete()
    for number in known.intersection(wanted):
        free = DeviceSlot.objects.filter(host=host, queue=queue, number=number, job=None)
        free.exclude(device=device(queue, number)).update(device=device(queue, number))


def free_slot(host: str, queue: str) -> DeviceSlot | None:
    """A free place, locked until the transaction ends; None when all are taken."""
    free = DeviceSlot.objects.filter(host=host, queue=queue, number__lt=limit(queue), job=None, holder="")
    return (
        free.select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)
        .order_by("number")
        .first()
    )


def take(slot: DeviceSlot, job: Job) -> None:
    DeviceSlot.objects.filter(pk=slot.pk).update(job=job, taken_at=Now())


@transaction.atomic
def hold(host: str, device: str, holder: str, size: int) -> DeviceSlot:
    """A place for something that is not a job: a serving engine. `size` is in bytes. Raises Conflict if it has one."""
    if DeviceSlot.objects.filter(host=host, queue=SERVING, holder=holder).exists():
        raise Conflict(f"{holder} has a place on {host} already.")
    taken = DeviceSlot.objects.filter(host=host, queue=SERVING).order_by("-number").values_list("number", flat=True)
    number = (taken[0] + 1) if taken else 0
    return DeviceSlot.objects.create(
        host=host, queue=SERVING, number=number, device=device, holder=holder, bytes=size, taken_at=Now()
    )


def release(host: str, holder: str) -> None:
    """Give back what `hold` took."""
    DeviceSlot.objects.filter(host=host, queue=SERVING, holder=holder).delete()
