"""What the gateway assigns is what the test counts: everybody in one arm, for good, in the shares asked for."""

import pytest

from abtests.actions import abtests
from abtests.actions.abtests import Share
from abtests.counting import arms
from abtests.gateway import assign, snapshot
from abtests.identity import keyed_hash
from abtests.traffic import AnswerRecord, record_answers
from project.kernel.references import Reference

USERS = [f"user-{number}" for number in range(2_000)]


@pytest.fixture
def split(world):
    """What the gateway would read right now for `intents`."""

    def read():
        found = snapshot.load().find(world.workspace.pk, Reference(name="intents"))
        assert found is not None
        return found[1]

    return read


def assigned(world, split):
    """user -> key of the arm, by the gateway's own arithmetic."""
    weights = [arm.weight for arm in split.arms]
    key = world.workspace.hash_key
    return {user: split.arms[assign.choose(weights, assign.point(key, split.salt, user))].key for user in USERS}


def test_the_gateways_split_is_what_is_counted(cast, world, split):
    by = cast.actor("operator")
    test = abtests.create(name="t", variants=[Share("intents:1", 80), Share("intents:2", 20)], by=by)
    assert split().test_id is None
    test = abtests.start(test, by=by)
    now = split()
    assert (now.test_id, now.salt, [arm.key for arm in now.arms]) == (test.pk, test.salt, ["a", "b"])
    met = assigned(world, now)
    record_answers(
        [
            AnswerRecord(
                id=f"chatcmpl-{user}-{turn}",
                workspace_id=world.workspace.pk,
                model_id=world.model.pk,
                version_id=(world.one if met[user] == "a" else world.two).pk,
                test_id=now.test_id,
                arm=met[user],
                unit_hash=keyed_hash(world.workspace.hash_key, "user", user),
            )
            for user in USERS
            for turn in range(2)
        ]
    )
    results = arms.count(test)
    one, two = results.arms
    assert (one.units, two.units) == tuple(list(met.values()).count(key) for key in "ab")
    assert (one.units + two.units, one.answers + two.answers) == (2_000, 4_000)
    assert not results.left_out
    assert two.unit_share == pytest.approx(0.2, abs=0.04)  # more than four standard errors


def test_a_pause_changes_nobodys_variant_and_another_test_shuffles(cast, world, split):
    by = cast.actor("operator")
    variants = [Share("intents:1"), Share("intents:2")]
    test = abtests.start(abtests.create(name="one", variants=variants, by=by), by=by)
    before = assigned(world, split())
    abtests.pause(test, by=by)
    assert split().test_id is None and len(split().arms) == 1
    test = abtests.start(test, by=by)
    assert assigned(world, split()) == before
    abtests.stop(test, by=by)
    abtests.start(abtests.create(name="two", variants=variants, by=by), by=by)
    after = assigned(world, split())
    same = sum(before[user] == after[user] for user in USERS) / len(USERS)
    assert same == pytest.approx(0.5, abs=0.06)  # who met what in the last test says nothing about this one


def test_one_workspace_cannot_guess_anothers_assignment(cast, world, split):
    by = cast.actor("operator")
    variants = [Share("intents:1"), Share("intents:2")]
    abtests.start(abtests.create(name="one", variants=variants, by=by), by=by)
    now = split()
    weights = [arm.weight for arm in now.arms]
    guessed = {user: now.arms[assign.choose(weights, assign.point("a guess", now.salt, user))].key for user in USERS}
    same = sum(guessed[user] == key for user, key in assigned(world, now).items()) / len(USERS)
    assert same == pytest.approx(0.5, abs=0.06)
