"""What a model writes: from templates, documents and examples; what is refused and why; and going on after a kill."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets_app.editing import change_texts, meta_of, too_long
from datasets_app.importing import Entry
from datasets_app.recipes import augment, synthesize
from datasets_app.storage import FILE, RowsFile, entries
from datasets_app.synthesis.making import entry_of
from datasets_app.synthesis.quality import Alike, fault_of, is_grounded
from datasets_app.synthesis.sources import Templates, pairs_in, pieces_of
from datasets_app.synthesis.writing import Journal, Written
from project.contracts.chat import Endpoint, Message
from project.contracts.rows import ChatRow, Row, TextRow
from project.contracts.runs import RunSpec, StopRequested, UserError
from project.modeling.asking import EndpointError
from project.modeling.tests.chat_server import ChatServer, chat_server
from project.runner.context import Context

Run = Callable[..., Context]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(lambda body: f"Answer to {body['messages'][-1]['content']}") as running:
        yield running


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a recipe as an engine would, against a server or the model in `base`; each call is another try."""
    tries = itertools.count(1)

    def run(
        recipe: Any,
        server: ChatServer | None,
        rows: list[Row] | None = None,
        *,
        base: Path | None = None,
        **params: Any,
    ) -> Context:
        attempt = next(tries)
        folder = tmp_path / "job" / str(attempt)
        folder.mkdir(parents=True)
        inputs = {"base": str(base)} if base else {}
        if rows is not None:
            inputs["source"] = str(stored(rows, tmp_path / "source"))
        spec = RunSpec(job="j", attempt=attempt, recipe=recipe.name, params=params, inputs=inputs)
        called = Endpoint(url=server.url, model="tiny", allowed=(server.address,)) if server else None
        ctx = Context(folder, spec, {"writer": called} if called else {})
        recipe.run(recipe.Params.model_validate(params), ctx)
        return ctx

    return run


def stored(rows: list[Row], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with RowsFile(folder / FILE) as file:
        for row in rows:
            file.add(entry_of(row, {})._replace(meta="{}"))
    return folder


def made(ctx: Context) -> list[Entry]:
    return list(entries(ctx.artifact))


def report(ctx: Context) -> dict[str, Any]:
    return dict(json.loads((ctx.artifact / "report.json").read_text())["generation"])


def talk(question: str, answer: str) -> ChatRow:
    return ChatRow(messages=(Message(role="user", content=question), Message(role="assistant", content=answer)))


TEMPLATES = {"kind": "templates", "template_prompts": ["Name a {size} {thing}"], "writer": "lab"}
VALUES = {"size": ["big", "small"], "thing": ["city", "river", "fish"]}


# --- templates


def test_templates_are_filled_with_every_combination(run: Run, server: ChatServer) -> None:
    ctx = run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=6, system="Be brief.", seed=1)
    rows = made(ctx)
    questions = {row.value["messages"][1]["content"] for row in rows}
    assert questions == {f"Name a {size} {thing}" for size in VALUES["size"] for thing in VALUES["thing"]}
    assert rows[0].value["messages"][0] == {"role": "system", "content": "Be brief."}
    assert rows[0].value["messages"][2]["content"].startswith("Answer to Name a")
    mark = meta_of(rows[0])["synthetic"]
    assert (mark["by"], mark["model"], mark["template"]) == ("synthesize", "lab", 1)
    assert ctx.outcome and ctx.outcome.result["synthetic_rows"] == 6
    assert server.bodies[0]["messages"][0]["content"] == "Be brief."


def test_the_same_seed_asks_the_same_and_the_order_of_answers_does_not_matter(run: Run, server: ChatServer) -> None:
    first = run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=4, seed=3, concurrency=1)
    digests = [first.outcome and first.outcome.result["digest"]]
    for path in first.folder.parent.glob("*/checkpoints/answers.jsonl"):
        path.unlink()
    together, answer = threading.Barrier(4, timeout=30), server.answer

    def all_at_once(body: dict[str, Any]) -> str:
        together.wait()
        return answer(body)

    server.answer = all_at_once
    again = run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=4, seed=3, concurrency=8)
    digests.append(again.outcome and again.outcome.result["digest"])
    assert digests[0] == digests[1]
    assert server.busiest == 4


def test_no_more_questions_at_a_time_than_allowed(run: Run, server: ChatServer) -> None:
    run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=6, concurrency=2)
    assert server.busiest <= 2


def test_millions_of_combinations_are_not_listed() -> None:
    words = {name: [f"{name}{number}" for number in range(1000)] for name in "abc"}
    source = Templates(["{a} {b} {c}"], words, system="", seed=1, again=False)
    assert source.size == 10**9
    questions = {ask.messages[0].content for ask in itertools.islice(source.asks(), 100)}
    assert len(questions) == 100


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "templates"}, "Write at least one prompt"),
        ({**TEMPLATES, "values": {"size": ["x"]}}, r"Give values for \{thing\}"),
        ({**TEMPLATES, "values": VALUES, "num_samples": 0}, "greater than or equal to 1"),
        ({**TEMPLATES, "values": VALUES, "temperature": 3}, "less than or equal to 2"),
        ({**TEMPLATES, "template_prompts": [" "]}, "1 to 20,000 characters"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesize.Params.model_validate(params)


# --- what is refused


def test_rejects_are_counted_and_listed_with_their_reasons(run: Run, server: ChatServer) -> None:
    answers = iter(["", "I'm sorry, I can't help with that.", "la " * 200, *(f"Good answer {n}" for n in range(50))])
    server.answer = lambda body: next(answers)
    ctx = run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=3, concurrency=1)
    found = report(ctx)
    assert (found["accepted"], found["rejected"]) == (3, 3)
    assert found["why"] == {"empty": 1, "the model declined": 1, "repeats itself": 1}
    lines = [json.loads(line) for line in (ctx.artifact / "rejects.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == [reject["reason"] for reject in found["rejects"]]
    events = [json.loads(line) for line in (ctx.folder / "events.jsonl").read_text().splitlines()]
    metrics = [event["values"] for event in events if event["type"] == "metrics"]
    assert metrics[0] == {"accepted": 0, "rejected": 1}
    assert metrics[-1] == {"accepted": 3, "rejected": 3}


def test_without_the_filter_everything_but_nothing_is_kept(run: Run, server: ChatServer) -> None:
    answers = iter(["", "I'm sorry, I can't.", "fine", "fine", "x", "y", "z", "a", "b", "c"])
    server.answer = lambda body: next(answers)
    ctx = run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=3, concurrency=1, quality_filter=False)
    assert report(ctx)["why"] == {"empty": 1}
    assert "sorry" in made(ctx)[0].value["messages"][-1]["content"]


def test_nothing_good_enough_is_a_users_error(run: Run, server: ChatServer) -> None:
    server.finish_reason = "length"
    with pytest.raises(UserError, match=r"cut at max_tokens: 24") as raised:
        run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=1)
    assert raised.value.field == "quality_filter"


@pytest.mark.parametrize(
    ("text", "fault"),
    [("Paris.", ""), ("  ", "empty"), ("As an AI language model, I", "the model declined"), ("ab", "too short")],
)
def test_faults(text: str, fault: str) -> None:
    assert fault_of(Written(text), least=3) == fault


def test_what_a_document_does_not_say_is_found() -> None:
    document = "The Rhine is 1,233 km long and flows through Basel, Cologne and Rotterdam."
    assert is_grounded("It flows through Basel and Cologne.", document, question="Where does the Rhine flow?") == ""
    assert is_grounded("It is 1,233 km long.", document, question="How long is it?") == ""
    wrong = is_grounded("It is 1,320 km long.", document, question="How long is it?")
    assert wrong == "not in the document: 1,320"
    assert "hamburg" in is_grounded("Through Hamburg and Dresden.", document, question="Where does it flow?")
    assert is_grounded("ライン川はバーゼルを流れる", "ライン川はバーゼルを流れる川です。", question="") == ""
    assert is_grounded("東京は日本の首都です", "ライン川はバーゼルを流れる川です。", question="").startswith("not in")


def test_questions_that_are_almost_the_same_are_one() -> None:
    alike = Alike()
    assert alike.is_new("How do I reset the password of my account?")
    assert not alike.is_new("How do I reset the  PASSWORD of my account?")
    assert not alike.is_new("How do I reset the password of my account")
    assert alike.is_new("Where is my parcel?")


@pytest.mark.parametrize(
    "text",
    [
        "Question: What?\nAnswer: This.\n\nQuestion: Who?\nAnswer: Her.",
        "1. **Question:** What?\n   **Answer:** This.\n2. **Question:** Who?\n   **Answer:** Her.",
        "Q1: What?\nA1: This.\nQ2: Who?\nA2: Her.",
        'Sure!\n```json\n[{"question": "What?", "answer": "This."}, {"question": "Who?", "answer": "Her."}]\n```',
    ],
)
def test_pairs_are_read_in_the_ways_models_write_them(text: str) -> None:
    assert pairs_in(text) == [("What?", "This."), ("Who?", "Her.")]


def test_documents_are_cut_where_it_hurts_least() -> None:
    text = "One sentence. " * 40 + "\n\n" + "Another paragraph.\n\n" + "x" * 700
    pieces = list(pieces_of(text, 300))
    assert all(len(piece) <= 310 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


# --- documents and examples


def test_documents_give_grounded_questions(run: Run, server: ChatServer) -> None:
    server.answer = lambda body: (
        "Question: How long is the Rhine?\nAnswer: 1233 km\n"
        "Question: Where does the Rhine end?\nAnswer: In Hamburg harbour\n"
        "Question: What does the Rhine flow through?\nAnswer: Basel and Cologne"
        if "Rhine" in body["messages"][0]["content"]
        else "Question: How high is Mont Blanc?\nAnswer: 4805 metres"
    )
    rows = [TextRow(text="The Rhine is 1233 km long. It flows through Basel and Cologne."),
            TextRow(text="Mont Blanc is 4805 metres high.")]  # fmt: skip
    ctx = run(synthesize, server, rows, kind="documents", num_samples=3, concurrency=1, output_format="completion")
    assert {row.value["prompt"]: row.value["completion"] for row in made(ctx)} == {
        "How long is the Rhine?": "1233 km",
        "What does the Rhine flow through?": "Basel and Cologne",
        "How high is Mont Blanc?": "4805 metres",
    }
    assert report(ctx)["why"]["not in the document"] == 1
    origins = {meta_of(row)["synthetic"]["of"] for row in made(ctx)}
    assert len(origins) == 2  # the questions about one document stay together when data is split


def test_examples_give_new_ones_that_resemble_none(run: Run, server: ChatServer) -> None:
    number = itertools.count()
    words = ["parcel", "invoice", "password", "refund", "account", "delivery", "coupon", "warranty", "newsletter"]

    def answer(body: dict[str, Any]) -> str:
        assert "Where is my order?" in body["messages"][0]["content"]
        word = words[next(number)]
        return f"Question: Where is my order?\nAnswer: Away.\nQuestion: What about the {word} of mine?\nAnswer: {word}."

    server.answer = answer
    ctx = run(synthesize, server, [talk("Where is my order?", "Here.")], kind="seeds", num_samples=4, concurrency=1)
    assert len(made(ctx)) == 4
    assert report(ctx)["why"] == {"almost the same question again": 4}


# --- endpoints and kills


def test_a_wrong_token_ends_the_job_at_once(run: Run, server: ChatServer) -> None:
    server.token = "another"
    with pytest.raises(EndpointError, match="refuses the token"):
        run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=6, concurrency=1)
    assert not server.bodies


def test_one_question_that_is_refused_is_one_reject(run: Run, server: ChatServer) -> None:
    run_params = {**TEMPLATES, "values": VALUES, "num_samples": 5, "concurrency": 1}
    server.failures = [(400, {}, "filtered")]
    ctx = run(synthesize, server, **run_params)
    assert report(ctx)["why"] == {"the endpoint would not take the question": 1}


def test_a_try_that_was_killed_is_gone_on_with(run: Run, server: ChatServer, tmp_path: Path) -> None:
    full = tmp_path / "job" / "1" / "checkpoints"
    run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=6)
    lines = (full / "answers.jsonl").read_text().splitlines(keepends=True)
    (full / "answers.jsonl").write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])  # killed in a line
    asked = len(server.bodies)
    ctx = run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=6)
    assert len(server.bodies) == asked + len(lines) - 3
    assert len(made(ctx)) == 6
    # What was asked in other words is asked again.
    run(synthesize, server, **{**TEMPLATES, "template_prompts": ["Say a {size} {thing}"]}, values=VALUES, num_samples=6)
    assert (asked, len(server.bodies)) == (6, 6 + 3 + 6)


def test_a_stop_keeps_what_was_written_for_any_host(
    run: Run, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[Context] = []
    start = Context.__init__

    def remembered(self: Context, *given: Any) -> None:
        start(self, *given)
        contexts.append(self)

    def answer(body: dict[str, Any]) -> str:
        if len(server.bodies) == 3:
            contexts[-1].request_stop()
        return "yes"

    monkeypatch.setattr(Context, "__init__", remembered)
    server.answer = answer
    with pytest.raises(StopRequested):
        run(synthesize, server, **TEMPLATES, values=VALUES, num_samples=6, concurrency=1)
    (checkpoint,) = contexts[0].checkpoints.glob("step-*")
    assert len((checkpoint / "answers.jsonl").read_text().splitlines()) >= 3
    elsewhere = tmp_path / "another host" / "2"
    elsewhere.mkdir(parents=True)
    spec = RunSpec(job="j", attempt=2, recipe="synthesize", params={}, resume_from=str(checkpoint))
    assert Journal(Context(elsewhere, spec)).resumed >= 3


@pytest.mark.full
def test_a_model_in_this_process_writes(run: Run, tiny_base: Path) -> None:
    ctx = run(
        synthesize, None, base=tiny_base, **TEMPLATES, values=VALUES, num_samples=4, max_tokens=12, quality_filter=False
    )
    rows = made(ctx)
    assert len(rows) == 4
    assert all(row.value["messages"][-1]["content"] for row in rows)
    assert ctx.outcome and ctx.outcome.result["tokens"] > 0


# --- other words


def test_paraphrases_follow_their_rows_and_are_marked(run: Run, server: ChatServer) -> None:
    rows = [talk("Order 17 is late, why?", "Sorry!"), talk("Hello there friend", "Hi.")]
    answers = {"Order 17": "Why is order 17 not here yet?", "Hello": "Good day to you, friend"}
    server.answer = lambda body: next(
        new for old, new in answers.items() if body["messages"][0]["content"].split("Text:\n")[1].startswith(old)
    )
    ctx = run(augment, server, rows, concurrency=1)
    found = made(ctx)
    assert [row.value["messages"][0]["content"] for row in found] == [
        "Order 17 is late, why?", "Why is order 17 not here yet?", "Hello there friend", "Good day to you, friend",
    ]  # fmt: skip
    assert found[1].value["messages"][1]["content"] == "Sorry!"
    assert [bool(meta_of(row)) for row in found] == [False, True, False, True]
    assert meta_of(found[1])["synthetic"]["of"] == found[0].hash
    assert ctx.outcome and ctx.outcome.result["synthetic_rows"] == 2


def test_a_paraphrase_that_loses_a_number_is_refused(run: Run, server: ChatServer) -> None:
    rows = [talk("Order 17 is late, why?", "Sorry!"), talk("Hello there friend", "Hi.")]
    answers = iter(["Why is my order late?", "hello there, friend!"])
    server.answer = lambda body: next(answers)
    with pytest.raises(UserError, match="lost: 1, the same words again: 1"):
        run(augment, server, rows, concurrency=1)


def test_back_translation_goes_there_and_back(run: Run, server: ChatServer) -> None:
    server.answer = lambda body: (
        "Wo ist mein Paket?" if "into French" in body["messages"][0]["content"] else "Where has my parcel gone?"
    )
    ctx = run(augment, server, [talk("Where is my parcel?", "Here.")], manner="back_translation", through="French")
    assert made(ctx)[1].value["messages"][0]["content"] == "Where has my parcel gone?"
    assert "Wo ist mein Paket?" in server.bodies[1]["messages"][0]["content"]


@pytest.mark.parametrize("quality_filter", [True, False])
def test_what_no_row_can_hold_is_refused_with_its_reason(run: Run, server: ChatServer, quality_filter: bool) -> None:
    rows = [talk("Where is my parcel?", "Here."), talk("Hello there friend", "Hi.")]
    answers = iter(["Where has my \ud83d parcel gone?", "Good day to you, friend"])
    server.answer = lambda body: next(answers)
    ctx = run(augment, server, rows, concurrency=1, quality_filter=quality_filter)
    assert [row.value["messages"][0]["content"] for row in made(ctx)] == [
        "Where is my parcel?", "Hello there friend", "Good day to you, friend",
    ]  # fmt: skip
    assert report(ctx)["rejected"] == 1
    assert report(ctx)["rejects"][0]["reason"] == "half a character, which no row can hold"


@pytest.mark.parametrize("quality_filter", [True, False])
def test_half_a_character_is_not_translated_back(run: Run, server: ChatServer, quality_filter: bool) -> None:
    rows = [talk("Where is my parcel?", "Here."), talk("Hello there friend", "Hi.")]
    answers = iter(["O\ud83d est-il ?", "Bonjour mon ami", "Good day to you, friend"])
    server.answer = lambda body: next(answers)
    ctx = run(
        augment, server, rows, concurrency=1, manner="back_translation", through="French", quality_filter=quality_filter
    )
    assert made(ctx)[-1].value["messages"][0]["content"] == "Good day to you, friend"
    assert report(ctx)["why"] == {"half a character, which no row can hold": 1}


@pytest.mark.parametrize("quality_filter", [True, False])
def test_half_a_character_never_becomes_a_row(run: Run, server: ChatServer, quality_filter: bool) -> None:
    answers = itertools.cycle(["Half \ud83d here", "A whole answer"])
    server.answer = lambda body: next(answers)
    ctx = run(
        synthesize, server, **TEMPLATES, values=VALUES, num_samples=2, concurrency=1, quality_filter=quality_filter
    )
    assert [row.value["messages"][-1]["content"] for row in made(ctx)] == ["A whole answer"] * 2
    assert report(ctx)["why"] == {"half a character, which no row can hold": report(ctx)["rejected"]}
    escaped = json.dumps([{"question": "What is \ud83d it?", "answer": "Water."}])  # whole until it is read as JSON
    server.answer = lambda body: escaped
    with pytest.raises(UserError, match="half a character, which no row can hold: 24"):
        run(
            synthesize,
            server,
            [TextRow(text="Water is wet. " * 30)],
            kind="documents",
            num_samples=1,
            concurrency=1,
            quality_filter=quality_filter,
        )


def test_a_row_that_can_not_be_changed_stays_without_copies(
    run: Run, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(entry: Entry, by: Callable[[str], str], part: Any) -> Entry:
        if "parcel" in entry.data:
            raise too_long()
        return change_texts(entry, by, part)

    monkeypatch.setattr(augment, "change_texts", change)
    server.answer = lambda body: "Good day to you, friend"
    ctx = run(augment, server, [talk("Where is my parcel?", "Here."), talk("Hello there friend", "Hi.")])
    assert len(made(ctx)) == 3 and len(server.bodies) == 1
    assert report(ctx)["why"] == {"the row can't be changed": 1}
