"""Every answer that left the building: who gave it, how long it took, and what it said."""

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone


class Source(models.TextChoices):
    API = "api", "API"
    PLAYGROUND = "playground", "Playground"


class Answer(models.Model):
    """One answer of one version. Written once, in batches, by whatever let the model answer (`traffic.record_answers`).

    `test` and `arm` are set when an A/B test assigned the unit. `error` is empty when all went well; a failed answer
    stays here, because it counts. Times are in milliseconds.
    """

    id = models.CharField(primary_key=True, max_length=64, editable=False, help_text="The id the client got")
    workspace = models.ForeignKey("kernel.Workspace", on_delete=models.PROTECT, related_name="+", db_index=False)
    model = models.ForeignKey("registry.RegisteredModel", on_delete=models.PROTECT, related_name="+", db_index=False)
    version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+", db_index=False)
    deployment = models.ForeignKey(
        "registry.Deployment", null=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    test = models.ForeignKey(
        "abtests.ABTest", null=True, on_delete=models.PROTECT, related_name="answers", db_index=False
    )
    arm = models.CharField(max_length=40, blank=True, help_text="Key of the variant, or of the route's arm")
    unit_hash = models.CharField(max_length=64, blank=True, help_text="Keyed hash of the end user, session or token")
    token_label = models.CharField(max_length=200, blank=True, help_text="Who asked, as a label")
    source = models.CharField(max_length=12, choices=Source, default=Source.API)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    latency_ms = models.FloatField(default=0.0, help_text="From the request to the last token")
    first_token_ms = models.FloatField(null=True, help_text="From the request to the first token, when streamed")
    finish_reason = models.CharField(max_length=20, blank=True)
    error = models.CharField(max_length=300, blank=True, help_text="What went wrong; empty when nothing did")
    created_at = models.DateTimeField(default=timezone.now)
    # Long columns stay last: SQLite reads a row from the left, and counting need not walk through the texts.
    params = models.JSONField(default=dict, help_text="Decoding settings that were asked for")
    messages = models.JSONField(default=list, help_text="The conversation so far, as it was sent")
    text = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["workspace", "-created_at", "-id"], name="answer_newest"),
            models.Index(fields=["model", "-created_at"], name="answer_of_model"),
            models.Index(fields=["version", "-created_at"], name="answer_of_version"),
            models.Index(fields=["test", "arm", "unit_hash"], name="answer_of_arm", condition=Q(test__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def prompt(self) -> str:
        """The last thing the user said."""
        turns = [turn for turn in self.messages if isinstance(turn, dict) and turn.get("role") == "user"]
        return _text_of(turns[-1].get("content")) if turns else ""

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of the conversation before the answer."""
        return [(str(t.get("role", "")), _text_of(t.get("content"))) for t in self.messages if isinstance(t, dict)]


def _text_of(content: Any) -> str:
    """OpenAI clients send a text or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
