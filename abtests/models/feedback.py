"""What people thought of an answer."""

from django.db import models
from django.db.models import Q
from django.utils import timezone

from abtests.models.answers import Answer
from project.kernel.models import WorkspaceObject


class Thumb(models.TextChoices):
    UP = "up", "Good"
    DOWN = "down", "Bad"


class Opinion(models.Model):
    """The content of a vote: at least one of rating, thumb, corrected text and comment."""

    rating = models.PositiveSmallIntegerField(null=True, blank=True, help_text="1 (bad) to 5 (good)")
    thumb = models.CharField(max_length=4, choices=Thumb, blank=True)
    corrected_text = models.TextField(blank=True, help_text="What the answer should have been")
    comment = models.TextField(blank=True)
    feedback_type = models.CharField(max_length=40, blank=True, help_text="What it is about, in the team's own words")

    FIELDS = ("rating", "thumb", "corrected_text", "comment", "feedback_type")

    class Meta:
        abstract = True


class Feedback(WorkspaceObject, Opinion):
    """One person's present opinion of one answer. Voting again edits it; what it said before is in `edits`.

    Who voted is kept as a keyed hash only: of the end user's id, else of the session, the member or the token.
    """

    answer = models.ForeignKey(Answer, on_delete=models.PROTECT, related_name="feedback", db_index=False)
    user_id_hash = models.CharField(max_length=64, editable=False)
    session_id = models.CharField(max_length=200, blank=True)
    source = models.CharField(max_length=12, blank=True, help_text="page, api, playground")
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta(WorkspaceObject.Meta):
        verbose_name = "feedback"
        verbose_name_plural = "feedback"
        constraints = [
            models.UniqueConstraint(fields=["answer", "user_id_hash"], name="one_vote_per_user_and_answer"),
            models.CheckConstraint(
                condition=Q(rating__isnull=True) | Q(rating__gte=1, rating__lte=5), name="rating_from_1_to_5"
            ),
        ]
        indexes = [models.Index(fields=["workspace", "-created_at"], name="feedback_newest")]

    is_new = False  # true on the one instance that was just made

    def __str__(self) -> str:
        return f"feedback on {self.answer_id}"


class FeedbackEdit(Opinion):
    """What a feedback said until `replaced_at`, when `replaced_by` changed it. The database refuses to change a row."""

    id = models.BigAutoField(primary_key=True)
    workspace = models.ForeignKey("kernel.Workspace", on_delete=models.PROTECT, related_name="+")
    feedback = models.ForeignKey(Feedback, on_delete=models.PROTECT, related_name="edits")
    said_at = models.DateTimeField(help_text="When it had been said")
    replaced_at = models.DateTimeField(default=timezone.now)
    replaced_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"edit {self.pk} of {self.feedback_id}"
