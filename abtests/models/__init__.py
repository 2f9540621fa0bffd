"""What the models answered, what people thought of it, and tests of one version against another."""

from abtests.models.ab_tests import ABTest, TestState, Variant
from abtests.models.answers import Answer, Source
from abtests.models.feedback import Feedback, FeedbackEdit, Thumb

__all__ = ["ABTest", "Answer", "Feedback", "FeedbackEdit", "Source", "TestState", "Thumb", "Variant"]
