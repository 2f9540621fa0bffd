"""Stages: gates decide, one version is in production, and the record says who did what when."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from project.kernel.errors import Conflict, Forbidden, NotFound, NotReady
from project.kernel.models import AuditEntry
from project.testing import Cast
from registry.actions import deployments, stages, versions
from registry.models import ModelVersion, Stage, StageChange
from registry.tests.conftest import MakeVersion, score


def test_a_version_nobody_evaluated_is_refused_with_the_command_to_run(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version()
    with pytest.raises(NotReady, match=r"manage\.py evaluate --model intents:1 --data DATASET"):
        versions.promote(version, by=cast.actor("operator"))
    version.refresh_from_db()
    assert version.stage == Stage.DRAFT
    assert not StageChange.objects.filter(version=version, action="promoted").exists()


def test_promotion_moves_one_version_in_and_the_other_back_to_staging(cast: Cast, make_version: MakeVersion) -> None:
    by = cast.actor("operator")
    one, two = (make_version(scored={"exact_match": 0.9}) for _ in range(2))
    versions.promote(one, by=by)
    versions.promote(two, by=by, comment="better on refunds")
    one.refresh_from_db()
    assert (one.stage, two.stage) == (Stage.STAGING, Stage.PRODUCTION)
    assert one.model.in_production() == two
    steps = list(StageChange.objects.filter(model=one.model).order_by("id").values_list("label", "action", "to_stage"))
    assert steps[2:] == [
        ("intents:1", "promoted", "production"),
        ("intents:1", "replaced", "staging"),
        ("intents:2", "promoted", "production"),
    ]
    last = StageChange.objects.order_by("-id").first()
    assert last is not None
    assert (last.actor_label, last.comment, last.gates[0]["gate"]) == (by.label, "better on refunds", "evaluated")
    assert AuditEntry.objects.filter(verb="version.promoted", object_id=str(two.pk)).exists()
    versions.promote(one, by=by)  # the way back
    assert one.model.in_production() == one


def test_the_walk_through_all_stages(cast: Cast, make_version: MakeVersion) -> None:
    by = cast.actor("operator")
    version = make_version(scored={"f1": 0.5})
    with pytest.raises(Conflict, match="only what was submitted"):
        versions.approve(version, by=by)
    versions.submit(version, by=cast.actor("teammate"))
    assert version.stage == Stage.STAGING
    versions.approve(version, by=by, comment="fine")
    with pytest.raises(Conflict, match="only from draft or archived"):
        versions.submit(version, by=by)
    versions.archive(version, by=by)
    with pytest.raises(Conflict, match="is archived"):
        versions.promote(version, by=by)
    versions.submit(version, by=by)
    versions.promote(version, by=by)
    with pytest.raises(Conflict, match="in production already"):
        versions.promote(version, by=by)
    actions = list(StageChange.objects.filter(version=version).order_by("id").values_list("action", flat=True))
    assert actions == ["registered", "submitted", "approved", "archived", "submitted", "promoted"]


def test_a_version_somebody_else_moved_meanwhile_stays_where_they_put_it(make_version: MakeVersion) -> None:
    version = make_version()
    stale = ModelVersion.objects.select_related("model").get(pk=version.pk)
    version.move(Stage.ARCHIVED, start=(Stage.DRAFT,))
    with pytest.raises(Conflict, match="is in stage 'archived'"):
        stale.move(Stage.STAGING, start=(Stage.DRAFT,))


def test_the_database_keeps_one_version_in_production(cast: Cast, make_version: MakeVersion) -> None:
    one, two = make_version(scored={"f1": 1.0}), make_version()
    versions.promote(one, by=cast.actor("owner"))
    with pytest.raises(DatabaseError), transaction.atomic():
        ModelVersion.objects.filter(pk=two.pk).update(stage=Stage.PRODUCTION)


@pytest.mark.parametrize("change", ["update", "delete"])
def test_the_record_of_stages_cannot_be_changed(make_version: MakeVersion, change: str) -> None:
    version = make_version()
    rows = StageChange.objects.filter(version=version)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        rows.update(comment="nothing") if change == "update" else rows._raw_delete(rows.db)


def test_the_first_version_of_an_imported_model_is_in_production_at_once(make_version: MakeVersion) -> None:
    first, second = make_version("base", origin="import"), make_version("base", origin="import")
    assert (first.stage, second.stage) == (Stage.PRODUCTION, Stage.DRAFT)
    assert StageChange.objects.get(version=first).action == "imported"


def test_what_was_in_production_then(cast: Cast, make_version: MakeVersion) -> None:
    by = cast.actor("owner")
    start = timezone.now()
    one, two = (make_version(scored={"f1": 0.9}) for _ in range(2))
    assert stages.at(one.model, timezone.now()).version is None
    versions.promote(one, by=by)
    first = timezone.now()
    versions.promote(two, by=by)
    second = timezone.now()
    versions.archive(two, by=by)
    third = timezone.now()
    model = one.model
    assert stages.at(model, start).version is None
    assert stages.at(model, first).version == one
    assert stages.at(model, second).version == two
    assert stages.at(model, third).version is None
    assert stages.at(model, third + timedelta(days=400)).version is None


def test_what_was_in_production_is_known_after_its_deletion(cast: Cast, make_version: MakeVersion) -> None:
    by = cast.actor("owner")
    version = make_version(scored={"f1": 0.9})
    model = version.model
    versions.promote(version, by=by)
    then = timezone.now()
    with pytest.raises(Conflict, match="in production"):
        versions.delete(version, by=by)
    versions.archive(version, by=by)
    versions.delete(version, by=by)
    was = stages.at(model, then)
    assert was.version is None
    assert was.change is not None
    assert was.change.label == "intents:1"


def test_numbers_are_never_used_twice(cast: Cast, make_version: MakeVersion) -> None:
    versions.delete(make_version(), by=cast.actor("owner"))
    assert make_version().number == 2


def test_who_may_do_what(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.9})
    for verb in (versions.promote, versions.archive, versions.approve):
        with pytest.raises(Forbidden, match="operator or more"):
            verb(version, by=cast.actor("teammate"))
        with pytest.raises(NotFound):
            verb(version, by=cast.actor("stranger"))
    with pytest.raises(Forbidden):
        versions.submit(version, by=cast.actor("viewer"))


def test_an_adapter_needs_a_full_base_of_the_same_workspace(cast: Cast, make_version: MakeVersion) -> None:
    base = make_version("base")
    adapter = make_version(base=base)
    assert adapter.foundation == base
    with pytest.raises(Conflict, match="itself an adapter"):
        make_version("third", base=adapter)
    with pytest.raises(Conflict):
        make_version("theirs", base=base, by=cast.actor("stranger"))


def test_scores_and_registration_are_idempotent_per_job(cast: Cast, make_version: MakeVersion) -> None:
    from uuid import uuid4

    from registry.actions import scores

    job = uuid4()
    version = make_version(job_id=job)
    again = make_version(job_id=job)
    assert again == version
    for _ in range(2):
        scores.record(version, {"f1": {"value": 0.5, "n": 3}}, data_digest="d" * 64, by=cast.actor("owner"), job_id=job)
    assert version.scores.count() == 1
    score(version, cast.actor("owner"), f1=0.6)
    assert [s.value for s in scores.newest([version])[version.pk]] == [0.6]


@pytest.mark.django_db(transaction=True)
def test_two_people_promote_at_the_same_moment(cast: Cast, make_version: MakeVersion) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("the test database lies in memory: one connection at a time")
    candidates = [make_version(scored={"f1": 0.9}) for _ in range(4)]
    by = cast.actor("owner")
    deployments.deploy(candidates[0], by=by)

    def promote(version: ModelVersion) -> None:
        try:
            versions.promote(version, by=by)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promote, candidates))
    model = candidates[0].model
    in_production = ModelVersion.objects.get(model=model, stage=Stage.PRODUCTION)
    assert stages.at(model, timezone.now()).version == in_production
    actions = list(StageChange.objects.filter(model=model).values_list("action", flat=True))
    assert (actions.count("promoted"), actions.count("replaced")) == (4, 3)
