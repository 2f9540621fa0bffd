"""What programs script against."""

import pytest

from abtests.models import Feedback
from abtests.traffic import AnswerRecord, record_answers


def vote(client, **body):
    return client.post("/api/v1/feedback/", body, format="json")


@pytest.fixture
def api(cast):
    return cast.api("operator")


def test_a_vote_and_its_history(api, world):
    answer = world.answer()
    first = vote(api, response_id=answer.pk, rating=2, feedback_type="tone", user_id="ann")
    assert first.status_code == 201, first.content
    assert first.json()["rating"] == 2 and first.json()["version_label"] == "intents:1"
    second = vote(api, response_id=answer.pk, thumb="up", corrected_text="  kept as it is \n", user_id="ann")
    assert second.status_code == 200 and second.json()["id"] == first.json()["id"]
    whole = api.get(f"/api/v1/feedback/{first.json()['id']}/").json()
    assert (whole["rating"], whole["thumb"], whole["corrected_text"]) == (2, "up", "  kept as it is \n")
    assert [edit["thumb"] for edit in whole["edits"]] == [""]
    assert "ann" not in str(whole["user_id_hash"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "response_id"),
        ({"response_id": "chatcmpl-1"}, "rating"),
        ({"response_id": "chatcmpl-1", "rating": 6}, "rating"),
        ({"response_id": "chatcmpl-1", "rating": "good"}, "rating"),
        ({"response_id": "chatcmpl-1", "rating": 4.5}, "rating"),
        ({"response_id": "chatcmpl-1", "rating": True}, "rating"),
        ({"response_id": "chatcmpl-1", "thumb": "sideways"}, "thumb"),
        ({"response_id": "chatcmpl-1", "rating": 3, "comment": "x" * 10_001}, "comment"),
        ({"response_id": "chatcmpl-1", "rating": 3, "comment": "a\0b"}, "comment"),
        ({"response_id": "chatcmpl-1", "rating": 3, "user_id": "x" * 201}, "user_id"),
        ({"response_id": "chatcmpl-1", "ratting": 3}, "ratting"),
        ({"response_id": ["a"], "rating": 3}, "response_id"),
    ],
)
def test_a_bad_vote_names_its_field(api, world, body, field):
    world.answer(id="chatcmpl-1")
    response = vote(api, **body)
    assert response.status_code == 400
    assert response["content-type"] == "application/problem+json"
    assert field in response.json()["errors"]
    assert not Feedback.objects.exists()


def test_a_body_that_is_no_object_is_refused(api, world):
    for body in ([], "text", [{"rating": 3}]):
        assert vote_raw(api, body).status_code == 400


def vote_raw(client, body):
    return client.post("/api/v1/feedback/", body, format="json")


def test_another_workspace_has_nothing(cast, world, make_test):
    answer, test = world.answer(), make_test(world)
    stranger = cast.api("stranger")
    assert vote(stranger, response_id=answer.pk, rating=5).status_code == 404
    for path in (f"answers/{answer.pk}", f"ab-tests/{test.pk}", f"ab-tests/{test.pk}/results"):
        assert stranger.get(f"/api/v1/{path}/").status_code == 404
    for verb in ("start", "pause", "stop"):
        assert stranger.post(f"/api/v1/ab-tests/{test.pk}/{verb}/").status_code == 404
    for path in ("answers", "feedback", "ab-tests"):
        assert stranger.get(f"/api/v1/{path}/").json()["count"] == 0
    assert stranger.get("/api/v1/feedback/stats/").json()["total"]["votes"] == 0


def test_scopes(cast, world):
    answer = world.answer()
    bot = cast.api("viewer", scopes=["feedback"])
    assert vote(bot, response_id=answer.pk, rating=5).status_code == 201
    assert bot.get("/api/v1/answers/").status_code == 403
    reader = cast.api("viewer", scopes=["read"])
    assert reader.get(f"/api/v1/answers/{answer.pk}/").status_code == 200
    assert vote(reader, response_id=answer.pk, rating=5).status_code == 403


def test_an_answer_with_its_conversation_and_its_votes(api, world):
    answer = world.answer(params={"temperature": 0.2})
    vote(api, response_id=answer.pk, rating=5, comment="Good")
    body = api.get(f"/api/v1/answers/{answer.pk}/").json()
    assert body["messages"] == [{"role": "user", "content": body["prompt"]}]
    assert (body["version_label"], body["model_name"], body["params"]) == ("intents:1", "intents", {"temperature": 0.2})
    assert [one["comment"] for one in body["feedback"]] == ["Good"]


def test_answers_are_filtered(api, world, make_test):
    test = make_test(world)
    voted = world.answer(test_id=test.pk, arm="b", version_id=world.two.pk)
    failed = world.answer(error="The engine was lost.")
    plain = world.answer(text="Where is my parcel?")
    vote(api, response_id=voted.pk, rating=1)

    def found(**query):
        return {row["id"] for row in api.get("/api/v1/answers/", query).json()["results"]}

    assert found() == {voted.pk, failed.pk, plain.pk}
    assert found(version=world.two.pk) == found(test=test.pk) == found(has_feedback="true") == {voted.pk}
    assert found(failed="true") == {failed.pk}
    assert found(search="parcel") == {plain.pk}
    assert api.get("/api/v1/answers/", {"version": "seven"}).json()["errors"].keys() == {"version"}
    assert api.get("/api/v1/answers/", {"ordering": "text"}).status_code == 400


def test_statistics_follow_the_filters(api, world):
    vote(api, response_id=world.answer().pk, rating=5)
    vote(api, response_id=world.answer(version_id=world.two.pk).pk, rating=2)
    stats = api.get("/api/v1/feedback/stats/").json()
    assert (stats["total"]["votes"], stats["total"]["mean_rating"], stats["ratings"]["5"]) == (2, 3.5, 1)
    assert {row["label"] for row in stats["by_version"]} == {"intents:1", "intents:2"}
    only = api.get("/api/v1/feedback/stats/", {"version": world.two.pk}).json()
    assert only["total"]["mean_rating"] == 2


def test_lists_of_many_take_few_queries(api, world, django_assert_max_num_queries):
    record_answers(
        [
            AnswerRecord(
                id=f"chatcmpl-{n}", workspace_id=world.workspace.pk, model_id=world.model.pk, version_id=world.one.pk
            )
            for n in range(10_000)
        ]
    )
    for n in range(60):
        vote(api, response_id=f"chatcmpl-{n}", rating=1 + n % 5)
    for path in ("answers/?limit=500", "feedback/?limit=500", "feedback/stats/"):
        with django_assert_max_num_queries(9):
            assert api.get(f"/api/v1/{path}").status_code == 200


def test_the_life_of_a_test(api, world):
    body = {
        "name": "tone",
        "variants": [{"version": str(world.one.pk), "weight": 50}, {"version": "intents:2", "weight": 50}],
        "metrics": ["rating"],
    }
    made = api.post("/api/v1/ab-tests/", body, format="json")
    assert made.status_code == 201, made.content
    test = made.json()
    assert (test["state"], [variant["version_label"] for variant in test["variants"]]) == (
        "draft",
        ["intents:1", "intents:2"],
    )
    path = f"/api/v1/ab-tests/{test['id']}/"
    assert api.post(f"{path}start/").json()["state"] == "running"
    assert api.patch(path, {"variants": body["variants"]}, format="json").status_code == 409
    assert api.delete(path).status_code == 409
    world.answer(test_id=test["id"], arm="a")
    results = api.get(f"{path}results/").json()
    assert [arm["units"] for arm in results["arms"]] == [1, 0]
    assert (results["units"], results["state"], "chance" in results["note"]) == (1, "running", True)
    assert api.post(f"{path}pause/").json()["state"] == "paused"
    assert api.post(f"{path}stop/", {"winner": "z"}, format="json").json()["errors"].keys() == {"winner"}
    stopped = api.post(f"{path}stop/", {"winner": "a"}, format="json").json()
    assert (stopped["state"], stopped["winner"]) == ("stopped", "a")
    assert api.get("/api/v1/ab-tests/", {"state": "stopped"}).json()["count"] == 1
    assert api.delete(path).status_code == 409  # somebody took part


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"variants": []}, "variants"),
        ({"variants": "both"}, "variants"),
        ({"variants": [{"version": "intents:1", "weight": -1}, {"version": "intents:2"}]}, "variants.0.weight"),
        ({"variants": [{"version": "intents:1", "weight": 10**30}, {"version": "intents:2"}]}, "variants.0.weight"),
        ({"variants": [{"version": "intents:1"}, {"version": "nobody"}]}, "variants.1.version"),
        ({"variants": [{"version": "intents:1"}, {"versoin": "intents:2"}]}, "variants.1.versoin"),
        ({"metrics": ["speed"]}, "metrics"),
        ({"unit": "request"}, "unit"),
        ({"splits": [1, 2]}, "splits"),
    ],
)
def test_a_bad_test_names_its_field(api, world, change, field):
    body = {"name": "t", "variants": [{"version": "intents:1"}, {"version": "intents:2"}], **change}
    response = api.post("/api/v1/ab-tests/", body, format="json")
    assert response.status_code == 400, response.content
    assert any(name.startswith(field) for name in response.json()["errors"]), response.json()


def test_only_operators_run_tests(cast, world, make_test):
    test = make_test(world)
    assert cast.api("teammate").post(f"/api/v1/ab-tests/{test.pk}/stop/").status_code == 403
    assert cast.api("viewer").get(f"/api/v1/ab-tests/{test.pk}/results/").status_code == 200
