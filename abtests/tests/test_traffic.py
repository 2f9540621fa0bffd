"""Answers are kept, each once, whatever clients put into them."""

import pytest
from django.db import IntegrityError, connection

from abtests.models import Answer
from abtests.traffic import AnswerRecord, record_answers
from project.kernel.models import new_id


def record(world, number, **values):
    return AnswerRecord(
        **{
            "id": f"chatcmpl-{number}",
            "workspace_id": world.workspace.pk,
            "model_id": world.model.pk,
            "version_id": world.one.pk,
            **values,
        }
    )


def test_an_id_is_kept_once(world):
    record_answers([record(world, 1, text="first"), record(world, 2)])
    record_answers([record(world, 1, text="second"), record(world, 3)])
    assert Answer.objects.count() == 3
    assert Answer.objects.get(pk="chatcmpl-1").text == "first"


def test_a_batch_is_few_inserts(world, django_assert_max_num_queries):
    with django_assert_max_num_queries(12 if connection.vendor == "sqlite" else 1):
        record_answers([record(world, number) for number in range(450)])
    assert Answer.objects.count() == 450


def test_texts_no_database_keeps_are_kept_readable(world):
    nasty = "a\0b\ud800c"
    record_answers(
        [record(world, 1, text=nasty, messages=[{"role": "user", "content": [{"text": nasty}]}], error="x" * 999)]
    )
    answer = Answer.objects.get()
    assert answer.text == "a\ufffdb?c"
    assert answer.prompt == "a\ufffdb?c"
    assert len(answer.error) == 300


@pytest.mark.django_db(transaction=True)
def test_an_answer_of_nobody_is_refused(world):
    with pytest.raises(IntegrityError):
        record_answers([record(world, 1, version_id=new_id()), record(world, 2)])
    assert not Answer.objects.exists()
