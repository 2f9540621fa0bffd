"""How answers get into the database: many at a time, each once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone

from abtests.models import Answer

BATCH = 1000  # rows per INSERT; on SQLite Django makes smaller ones by itself
MAX_ERROR = 300


@dataclass(frozen=True)
class AnswerRecord:
    """What whoever let a model answer knows about it. Times in milliseconds; `error` is empty when all went well."""

    id: str
    workspace_id: UUID
    model_id: UUID
    version_id: UUID
    deployment_id: UUID | None = None
    test_id: UUID | None = None
    arm: str = ""
    unit_hash: str = ""
    token_label: str = ""
    source: str = "api"
    messages: Sequence[Any] = ()
    text: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    finish_reason: str = ""
    error: str = ""
    created_at: datetime | None = None


def record_answers(records: Sequence[AnswerRecord]) -> None:
    """Write answers in batches, each at most once: an id that is there already is left as it is.

    Raises IntegrityError when a record names a workspace, model, version or test that does not exist; then nothing of
    its batch is written.
    """
    now = timezone.now()
    Answer.objects.bulk_create([_row(record, now) for record in records], batch_size=BATCH, ignore_conflicts=True)


def _row(record: AnswerRecord, now: datetime) -> Answer:
    return Answer(
        id=record.id,
        workspace_id=record.workspace_id,
        model_id=record.model_id,
        version_id=record.version_id,
        deployment_id=record.deployment_id,
        test_id=record.test_id,
        arm=record.arm,
        unit_hash=record.unit_hash,
        token_label=storable(record.token_label)[:200],
        source=record.source,
        messages=storable(list(record.messages)),
        text=storable(record.text),
        params=storable(record.params),
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        latency_ms=record.latency_ms,
        first_token_ms=record.first_token_ms,
        finish_reason=record.finish_reason[:20],
        error=storable(record.error)[:MAX_ERROR],
        created_at=record.created_at or now,
    )


def storable(value: Any) -> Any:
    """PostgreSQL keeps no NUL, and neither database a lone surrogate; clients can send both inside JSON."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value
