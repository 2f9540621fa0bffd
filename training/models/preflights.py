"""What a base model would learn from a data set, found out before anybody trains."""

from typing import Any

from django.db import models
from django.urls import reverse

from datasets_app.preview import Bar, bars
from project.contracts.rows import RowKind
from project.kernel.models import WorkspaceObject
from training.engine.recipes import preflight, token_lengths
from training.engine.recipes.preflight import IS_LOST

FLAGS = {**token_lengths.FLAGS, **preflight.FLAGS}  # what may be wrong with a row of any kind, in words


class Preflight(WorkspaceObject):
    """The rows of one data set version as one base model would be trained on them. Its state is its job's.

    `result` has counts of rows and tokens (see `training.engine.recipes.preflight.summary`); `views` the rows that can
    be looked at token by token. Of pairs, thumbs, prompts and texts it has the lengths only (`token_lengths`).
    """

    job = models.OneToOneField("jobs.Job", on_delete=models.PROTECT, related_name="preflight")
    base_version = models.ForeignKey("registry.ModelVersion", on_delete=models.CASCADE, related_name="preflights")
    data_version = models.ForeignKey("datasets_app.DatasetVersion", on_delete=models.CASCADE, related_name="preflights")
    max_seq_length = models.PositiveIntegerField(help_text="tokens of a row that training would keep")
    result = models.JSONField(default=dict)
    views = models.ForeignKey(
        "kernel.Artifact", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )

    class Meta(WorkspaceObject.Meta):
        indexes = [models.Index(fields=["data_version", "base_version"], name="preflight_of")]

    def __str__(self) -> str:
        return f"{self.data_version} for {self.base_version}, {self.max_seq_length:,} tokens"

    def get_absolute_url(self) -> str:
        return reverse("preflight", args=[self.pk])

    @property
    def bars(self) -> list[Bar]:
        """The histogram of the rows' lengths, to be drawn."""
        return bars(self.result, "tokens")

    @property
    def mark(self) -> float | None:
        """Where in the picture `max_seq_length` is, from 0 to 100; None where no row is longer, or none is cut."""
        histogram = self.result.get("histogram", []) if self.cuts else []
        for place, bar in enumerate(histogram):
            if bar["from"] <= self.max_seq_length < bar["to"]:
                inside = (self.max_seq_length - bar["from"]) / (bar["to"] - bar["from"])
                return float(100 * (place + inside) / len(histogram))
        return None

    @property
    def longer_rows(self) -> int:
        """Rows with more tokens than training would keep, as far as findings tell."""
        flags = self.result.get("flags", {})
        return sum(flags.get(flag, 0) for flag in ("answer_lost", "cut_answer", "cut", "too_long"))

    @property
    def state(self) -> str:
        return str(self.job.state)

    @property
    def has_mask(self) -> bool:
        """Does it know what is learned: are the rows conversations or completions?"""
        return self.data_version.row_kind in preflight.eats

    @property
    def cuts(self) -> bool:
        """Would training cut long rows? Texts it learns in pieces."""
        return self.data_version.row_kind != RowKind.TEXT

    @property
    def learned_share(self) -> float | None:
        """Of the tokens that training would keep, the share that it would learn, from 0 to 1; None without a mask."""
        if not self.has_mask:
            return None
        kept = self.result.get("kept", 0)
        return float(self.result["learned"] / kept) if kept else 0.0

    @property
    def lost_rows(self) -> int:
        """Rows from which nothing would be learned."""
        flags = self.result.get("flags", {})
        return sum(flags.get(flag, 0) for flag in IS_LOST)

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What is wrong with rows, worst first: [{flag, words, rows}]."""
        flags = self.result.get("flags", {})
        return [{"flag": flag, "words": words, "rows": flags[flag]} for flag, words in FLAGS.items() if flags.get(flag)]

    @property
    def length_that_keeps_all(self) -> int | None:
        """The greatest row length, where rows are cut and the base model's context has room for it."""
        longest = int(self.result.get("percentiles", {}).get("100", 0))
        context = int(self.base_version.facts.get("context") or 0)
        return longest if longest > self.max_seq_length and (not context or longest <= context) else None
