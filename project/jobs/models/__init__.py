"""Long operations, their tries, what they said, and the places they run in."""

from project.jobs.models.capacity import DeviceSlot, Worker
from project.jobs.models.checkpoint import Checkpoint
from project.jobs.models.job import ACTIVE, TERMINAL, Job, JobAttempt, JobState, Outcome, Queue
from project.jobs.models.said import JobEvent, Metric, MetricRollup

__all__ = [
    "ACTIVE",
    "TERMINAL",
    "Checkpoint",
    "DeviceSlot",
    "Job",
    "JobAttempt",
    "JobEvent",
    "JobState",
    "Metric",
    "MetricRollup",
    "Outcome",
    "Queue",
    "Worker",
]
