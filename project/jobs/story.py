"""What happened to a job, in sentences for people."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from project.contracts.events import FailureClass
from project.jobs.models import Job, JobEvent

TOLD = ("state", "started", "checkpoint", "resumed", "failed", "stopped")

SENTENCES = {
    FailureClass.USER_ERROR: "It can't be done as it was asked for.",
    FailureClass.DEVICE_MEMORY: "The device ran out of memory.",
    FailureClass.HOST_MEMORY: "The host ran out of memory.",
    FailureClass.INFRASTRUCTURE: "Something around it failed, not the work itself.",
    FailureClass.STORAGE_FULL: "There was no space left to write to.",
    FailureClass.TIME_LIMIT: "It took longer than it was allowed to.",
    FailureClass.CRASH: "It stopped with an error that nobody expected.",
}


def failure_sentence(job: Job) -> str:
    """One sentence for the class of a failure; '' for a job that did not fail."""
    return SENTENCES[FailureClass(job.failure_class)] if job.failure_class else ""


@dataclass(frozen=True)
class Told:
    """One line of the story."""

    icon: str
    text: str
    detail: str
    at: datetime


def tell(job: Job, *, most: int = 30) -> list[Told]:
    """The newest events that people care about, newest first; of the checkpoints only the last."""
    events = list(job.events.filter(type__in=TOLD).order_by("-seq")[: most * 3])
    saved = [event for event in events if event.type == "checkpoint"]
    return [told for event in events if event not in saved[1:] and (told := _tell(event))][:most]


def _tell(event: JobEvent) -> Told | None:
    match event.type:
        case "state":
            icon, text, detail = _state(event.body, event.attempt)
        case "checkpoint":
            icon, text, detail = "flag", f"Checkpoint at step {event.body.get('step')}", ""
        case "started":
            icon, text, detail = "cpu", "Engine started", f"on {event.body.get('device', '')}"
        case "resumed":
            icon, text, detail = "retry", *resumption(event.body)
        case "stopped":
            icon, text, detail = "stop", f"Engine stopped at step {event.body.get('step', 0)}", ""
        case _:  # 'failed' is said by the state that follows it
            return None
    return Told(icon, text, detail, event.at)


def resumption(body: dict[str, Any]) -> tuple[str, str]:
    """Where a run went on, and whether its numbers are those of a run that was never interrupted."""
    step, changed = body.get("step", 0), body.get("differences", [])
    if not changed:
        return f"Resumed exactly from step {step}", ""
    return f"Resumed from step {step}", f"{', '.join(changed)}: numbers may differ in the last digits"


def resumptions(job: Job) -> list[str]:
    """One sentence for each time that it went on from a checkpoint, the newest first."""
    said = job.events.filter(type="resumed").order_by("-seq")[:10]
    return [" ".join(part for part in resumption(event.body) if part) + "." for event in said]


def _state(body: dict[str, Any], attempt: int) -> tuple[str, str, str]:
    by = f"by {body['by']}" if body.get("by") else ""
    if body.get("cancel_requested"):
        return "stop", "Asked to stop", by
    if body.get("adopted"):
        return "retry", "Its worker was replaced", "the engine went on meanwhile"
    if body.get("resumed"):
        return "play", "Resumed", by
    if body.get("adjusted"):
        return "gauge", "Made to fit", f"{body.get('reason', '')} It goes on with {body.get('note', '')}."
    match body.get("state"):
        case "pausing":
            return "pause", "Asked to pause", by
        case "paused":
            return "pause", "Paused", str(body.get("reason") or by)
        case "queued" if body.get("reason"):
            return "retry", "Queued again", str(body["reason"])
        case "queued":
            return "clock", "Queued", by
        case "running":
            where = f"on {body.get('host', '')}, {body.get('device', '')}"
            return "play", "Started" if attempt <= 1 else f"Started again (try {attempt})", where
        case "succeeded":
            return "check-circle", "Succeeded", ""
        case "failed":
            return "x-circle", "Failed", str(body.get("message", ""))
        case "cancelled":
            return "minus-circle", "Cancelled", by
        case state:
            return "dot", str(state).capitalize(), by
