"""People say what they think of an answer, and may change their mind."""

import re
from typing import Any, TypedDict, Unpack

from django.db import transaction
from django.utils import timezone

from abtests.identity import voter
from abtests.models import Answer, Feedback, FeedbackEdit, Thumb
from abtests.traffic import storable
from project.kernel import access, live
from project.kernel.access import Actor
from project.kernel.errors import Invalid

MAX_TEXT = 100_000
MAX_COMMENT = 10_000
MAX_ID = 200
_TYPE = re.compile(r"[a-z0-9][a-z0-9 _-]{0,39}")


class Opinion(TypedDict, total=False):
    """What a vote says. What is left out stays as it was; an empty value takes it back."""

    rating: int | None
    thumb: str
    corrected_text: str
    comment: str
    feedback_type: str


_EMPTY: Opinion = {"rating": None, "thumb": "", "corrected_text": "", "comment": "", "feedback_type": ""}
_CONTENT = ("rating", "thumb", "corrected_text", "comment")


@transaction.atomic
def give(
    answer_id: str,
    *,
    by: Actor,
    user_id: str = "",
    session_id: str = "",
    source: str = "api",
    **said: Unpack[Opinion],
) -> Feedback:
    """Vote on an answer of the actor's workspace. A person has one vote per answer: voting again edits it.

    The voter is the end user `user_id`, else the session, else the actor. Saying the same again changes nothing.
    Raises NotFound for an answer of somebody else, Invalid naming the field.
    """
    answer = access.find(Answer.objects.only("id", "workspace_id", "test_id"), by, pk=answer_id)
    access.require(by, "feedback.create", answer)
    opinion = _checked(said, user_id=user_id, session_id=session_id)
    who = voter(by, user_id=user_id, session_id=session_id)
    earlier = Feedback.objects.select_for_update().filter(answer=answer, user_id_hash=who).first()
    if earlier is None:
        _must_say_something({**_EMPTY, **opinion})
        earlier, created = Feedback.objects.get_or_create(
            answer=answer,
            user_id_hash=who,
            defaults={
                **opinion,
                "workspace": by.workspace,
                "created_by": by.label,
                "session_id": session_id,
                "source": source,
            },
        )
        if created:
            live.publish(f"feedback.{by.workspace.pk}", answer=answer.pk)
            earlier.is_new = True
            return earlier
        earlier = Feedback.objects.select_for_update().get(pk=earlier.pk)  # the same person was faster, elsewhere
    return _edit(earlier, opinion, by=by)


def _edit(feedback: Feedback, opinion: Opinion, *, by: Actor) -> Feedback:
    before = {field: getattr(feedback, field) for field in Feedback.FIELDS}
    after = {**before, **opinion}
    if after == before:
        return feedback
    _must_say_something(after)
    now = timezone.now()
    FeedbackEdit.objects.create(
        workspace_id=feedback.workspace_id,
        feedback=feedback,
        said_at=feedback.updated_at,
        replaced_at=now,
        replaced_by=by.label[:200],
        **before,
    )
    for field, value in after.items():
        setattr(feedback, field, value)
    feedback.updated_at = now
    feedback.save(update_fields=[*Feedback.FIELDS, "updated_at"])
    live.publish(f"feedback.{by.workspace.pk}", answer=feedback.answer_id)
    return feedback


def _checked(said: Opinion, *, user_id: str, session_id: str) -> Opinion:
    """`said`, tidied. Raises Invalid naming every wrong field."""
    errors: dict[str, list[str]] = {}
    opinion: Opinion = {}
    if "rating" in said:
        rating = said["rating"]
        if rating is not None and (isinstance(rating, bool) or not isinstance(rating, int) or not 1 <= rating <= 5):
            errors["rating"] = ["Use a whole number from 1 (bad) to 5 (good)."]
        opinion["rating"] = rating
    if "thumb" in said:
        opinion["thumb"] = said["thumb"] or ""
        if opinion["thumb"] and opinion["thumb"] not in Thumb.values:
            errors["thumb"] = ["Use 'up' or 'down'."]
    if "corrected_text" in said:
        corrected = storable(said["corrected_text"] or "")
        opinion["corrected_text"] = corrected if corrected.strip() else ""
        if len(opinion["corrected_text"]) > MAX_TEXT:
            errors["corrected_text"] = [f"Use at most {MAX_TEXT:,} characters."]
    if "comment" in said:
        opinion["comment"] = storable(said["comment"] or "").strip()
        if len(opinion["comment"]) > MAX_COMMENT:
            errors["comment"] = [f"Use at most {MAX_COMMENT:,} characters."]
    if "feedback_type" in said:
        opinion["feedback_type"] = (said["feedback_type"] or "").strip().lower()
        if opinion["feedback_type"] and not _TYPE.fullmatch(opinion["feedback_type"]):
            errors["feedback_type"] = ["Use up to 40 letters, digits, '-' and '_', such as 'accuracy' or 'tone'."]
    for field, value in (("user_id", user_id), ("session_id", session_id)):
        if len(value) > MAX_ID or "\0" in value:
            errors[field] = [f"Use at most {MAX_ID} characters."]
    if errors:
        raise Invalid(errors=errors)
    return opinion


def _must_say_something(opinion: Any) -> None:
    if not any(opinion[field] for field in _CONTENT):
        raise Invalid(errors={"rating": ["Say something: a rating, a thumb, a corrected text or a comment."]})
