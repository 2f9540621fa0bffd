"""Requests decoded together answer exactly as each would alone, and as transformers and PEFT answer (float32)."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from project.contracts.chat import Message
from project.modeling.tiny import make_tiny_model
from registry.serving.engine.decoder import Broken, Decoder, Finished, Output, Piece, Row
from registry.serving.engine.model import BASE, MIXED, ServedModel, check_adapter
from registry.serving.engine.sampling import Sampling
from registry.serving.engine.spec import EngineSpec
from registry.serving.engine.wire import ApiError
from registry.serving.tests.cast import SECRET, make_adapter, make_other_adapter

GREEDY = Sampling(temperature=0)
QUESTIONS = [
    "What did the detector find?",
    "Hi",
    "A card number in a log, an address in a form, and a key in a commit. What are they? " * 3,
    "Rome?",
    "Which model answers with a category and a band of confidence, as one line of JSON?",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("models")
    base = make_tiny_model(root / "base")
    return SimpleNamespace(
        base=base,
        red=make_adapter(base, root / "red", seed=1),
        blue=make_adapter(base, root / "blue", seed=2, r=8, use_rslora=True, target_modules=["q_proj", "down_proj"]),
        dora=make_adapter(base, root / "dora", seed=3, use_dora=True),
    )


def spec(folders: SimpleNamespace, **settings: Any) -> EngineSpec:
    return EngineSpec.model_validate({"base": folders.base, "dtype": "float32", "secret": SECRET} | settings)


@pytest.fixture(scope="module")
def shared(folders: SimpleNamespace) -> Iterator[Decoder]:
    yield from _decoder(folders)


def _decoder(folders: SimpleNamespace, **settings: Any) -> Iterator[Decoder]:
    one = spec(folders, **settings)
    decoder = Decoder(ServedModel(one), one, on_fatal=lambda: None)
    decoder.start()
    for name in ("red", "blue", "dora"):
        decoder.add_adapter(name, getattr(folders, name)).result(timeout=60)
    yield decoder
    decoder.close()


class Answer:
    """Collects what one request gets."""

    def __init__(
        self,
        decoder: Decoder,
        question: str,
        *,
        model: str = BASE,
        limit: int | None = 24,
        sampling: Sampling = GREEDY,
        stops: tuple[str, ...] = (),
    ) -> None:
        self.outputs: queue.Queue[Output] = queue.Queue()
        voice = decoder.voice(model)
        prompt = voice.prompt([Message(role="user", content=question)])
        self.row: Row = decoder.submit(
            voice, prompt, limit=limit, sampling=sampling, stops=stops, send=self.outputs.put
        )

    def wait(self) -> tuple[str, Finished]:
        text = ""
        while True:
            output = self.outputs.get(timeout=60)
            match output:
                case Piece():
                    text += output.text
                case Finished():
                    return text, output
                case Broken():
                    raise output.error

    @property
    def text(self) -> str:
        return self.wait()[0]


def generated(model: Any, voice: Any, question: str, limit: int) -> str:
    """What transformers' own `generate` says: the oracle."""
    import torch

    prompt = voice.prompt([Message(role="user", content=question)])
    out = model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=limit, eos_token_id=sorted(voice.ends), pad_token_id=0
    )
    return str(voice.tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True))


def test_the_base_answers_as_transformers_does(shared: Decoder, folders: SimpleNamespace) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders.base)
    for question in QUESTIONS:
        assert Answer(shared, question).text == generated(model, shared.voice(BASE), question, 24)


@pytest.mark.parametrize("name", ["red", "blue", "dora"])
def test_an_adapter_answers_as_peft_does(shared: Decoder, folders: SimpleNamespace, name: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders.base), getattr(folders, name)).eval()
    expected = generated(model, shared.voice(name), QUESTIONS[0], 24)
    assert Answer(shared, QUESTIONS[0], model=name).text == expected
    assert expected != Answer(shared, QUESTIONS[0]).text  # the adapter does something


def written(model: Any, voice: Any, question: str, limit: int) -> str:
    """The same from PEFT's forward alone, without cache, batch or padding: the oracle for every kind of adapter."""
    import torch

    ids = prompt = voice.prompt([Message(role="user", content=question)])
    with torch.no_grad():
        while len(ids) < len(prompt) + limit and (len(ids) == len(prompt) or ids[-1] not in voice.ends):
            ids = [*ids, int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return str(voice.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))


def test_every_kind_of_adapter_answers_beside_the_others_as_it_would_alone(
    folders: SimpleNamespace, tmp_path: Path
) -> None:
    from peft import IA3Config, LoHaConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
    from transformers import AutoModelForCausalLM

    task = {"task_type": "CAUSAL_LM"}
    kinds = {
        "ia3": IA3Config(**task),
        "loha": LoHaConfig(target_modules=["q_proj", "down_proj"], **task),
        "prefix": PrefixTuningConfig(num_virtual_tokens=6, **task),
        "prompt": PromptTuningConfig(num_virtual_tokens=5, **task),
        "p-tuning": PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=64, **task),
    }
    paths = {"red": folders.red}  # first, so that the others find it on the base
    paths |= {name: make_other_adapter(folders.base, tmp_path / name, kind, seed=5) for name, kind in kinds.items()}
    paths["pissa"] = make_adapter(folders.base, tmp_path / "pissa", seed=4, init_lora_weights="pissa")
    one = spec(folders)
    decoder = Decoder(ServedModel(one), one, on_fatal=lambda: None)
    decoder.start()
    try:
        for name, path in paths.items():
            decoder.add_adapter(name, path).result(timeout=60)
        asked = [(name, question) for name in (*paths, BASE) for question in QUESTIONS[:3]]
        answers = {pair: Answer(decoder, pair[1], model=pair[0], limit=12) for pair in asked}
        for (name, question), answer in answers.items():
            model = AutoModelForCausalLM.from_pretrained(folders.base)
            model = (PeftModel.from_pretrained(model, paths[name]) if name in paths else model).eval()
            assert answer.text == written(model, decoder.voice(name), question, 12), name
        room = decoder._model.context - 6
        with pytest.raises(ApiError, match=f"context is {room} tokens"):
            decoder.submit(
                decoder.voice("prefix"), [5] * room, limit=1, sampling=GREEDY, stops=(), send=lambda output: None
            )
        expected = Answer(decoder, "Hi", model="red").text
        for name in kinds:
            decoder.remove_adapter(name)
        assert Answer(decoder, "Hi", model="red").text == expected
    finally:
        decoder.close()


def test_together_is_the_same_as_alone(shared: Decoder) -> None:
    """Different lengths, adapters and moments of joining and leaving."""
    cast = [(q, m, n) for n, (q, m) in enumerate((q, m) for q in QUESTIONS for m in (BASE, "red", "blue", "dora"))]
    limits = {n: 5 + (n * 7) % 40 for _, _, n in cast}
    alone = [Answer(shared, q, model=m, limit=limits[n]).wait() for q, m, n in cast]
    together = []
    for q, m, n in cast:
        together.append(Answer(shared, q, model=m, limit=limits[n]))
        if n % 3 == 0:
            time.sleep(0.02)
    assert [answer.wait() for answer in together] == alone


def test_plain_adapters_share_a_batch_and_special_ones_wait_for_their_own(shared: Decoder) -> None:
    assert {name: shared.voice(name).lane for name in (BASE, "red", "blue", "dora")} == {
        BASE: MIXED,
        "red": MIXED,
        "blue": MIXED,
        "dora": "dora",
    }


def test_mixed_rows_get_the_logits_of_peft(folders: SimpleNamespace) -> None:
    """To rounding, for adapters of different rank, scale and layers in one batch, and after one of them has gone."""
    import torch

    from registry.serving.engine.batch import new_cache

    model = ServedModel(spec(folders))
    for name in ("red", "blue", "dora"):
        model.add(name, getattr(folders, name))
    ids = torch.arange(10, 26).view(2, 8)[[0, 1, 0]]
    mask, positions = torch.ones_like(ids), torch.arange(8).expand_as(ids)

    def logits(*names: str) -> torch.Tensor:
        rows = slice(0, len(names))
        with torch.inference_mode():
            return model.forward(names, ids[rows], mask=mask[rows], positions=positions[rows], cache=new_cache())

    alone = {name: logits(name, name, name) for name in (BASE, "red", "blue")}
    for names in (("red", BASE, "blue"), ("blue", "blue", "red"), (BASE, BASE, "red"), ("blue", BASE, BASE)):
        logits("dora", "dora", "dora")  # what PEFT is set to must not show in the others
        expected = torch.stack([alone[name][row] for row, name in enumerate(names)])
        torch.testing.assert_close(logits(*names), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(logits("red", "red", "red"), alone["red"], rtol=0, atol=0)  # nothing stays switched
    model.remove("red")
    torch.testing.assert_close(logits("blue", BASE, BASE)[:1], alone["blue"][:1], rtol=0, atol=2e-5)


def test_a_seed_gives_the_same_answer_whoever_else_asks(shared: Decoder) -> None:
    lively = Sampling(temperature=1.0, top_p=0.9, seed=11)
    alone = Answer(shared, QUESTIONS[0], sampling=lively).text
    crowd = [Answer(shared, q, sampling=Sampling(temperature=1.5, seed=n)) for n, q in enumerate(QUESTIONS)]
    assert Answer(shared, QUESTIONS[0], sampling=lively).text == alone
    assert alone != Answer(shared, QUESTIONS[0], sampling=Sampling(temperature=1.0, top_p=0.9, seed=12)).text
    unseeded = {Answer(shared, QUESTIONS[0], sampling=Sampling(temperature=1.0)).text for _ in range(3)}
    assert len(unseeded) == 3
    for answer in crowd:
        answer.wait()


def test_a_tiny_top_p_is_greedy(shared: Decoder) -> None:
    narrow = Sampling(temperature=1.0, top_p=1e-6)
    assert Answer(shared, QUESTIONS[0], sampling=narrow).text == Answer(shared, QUESTIONS[0]).text


def test_a_frequency_penalty_forbids_repetition(shared: Decoder) -> None:
    row = Answer(shared, "Hi", limit=60, sampling=Sampling(temperature=0, frequency_penalty=2.0, presence_penalty=2.0))
    plain = Answer(shared, "Hi", limit=60)
    assert row.text != plain.text


def test_usage_and_reasons(shared: Decoder) -> None:
    text, finished = Answer(shared, QUESTIONS[0], limit=7).wait()
    assert finished.reason == "length" and finished.usage.completion_tokens == 7
    prompt = shared.voice(BASE).prompt([Message(role="user", content=QUESTIONS[0])])
    assert finished.usage.prompt_tokens == len(prompt)
    stop = text[3:5]
    cut, stopped = Answer(shared, QUESTIONS[0], limit=7, stops=(stop,)).wait()
    assert cut == text.partition(stop)[0] and stopped.reason == "stop"


def test_an_answer_never_grows_past_the_context(shared: Decoder) -> None:
    prompt = shared.voice(BASE).prompt([Message(role="user", content=QUESTIONS[2])])
    _, finished = Answer(shared, QUESTIONS[2], limit=100_000).wait()
    assert finished.usage.completion_tokens <= 512 - len(prompt)
    with pytest.raises(ApiError) as refused:
        Answer(shared, QUESTIONS[2] * 20)
    assert refused.value.status == 400 and refused.value.code == "context_length_exceeded"


def test_an_abandoned_answer_frees_its_place(folders: SimpleNamespace) -> None:
    for decoder in _decoder(folders, max_batch=1):
        first = Answer(decoder, "Hi", limit=400)
        first.outputs.get(timeout=30)
        second = Answer(decoder, "Rome?", limit=3)
        first.row.cancelled = True
        second.wait()
        assert decoder.active + decoder.waiting <= 1
        assert decoder.counts.completion_tokens < 400


def test_too_many_waiting_are_refused_at_once(folders: SimpleNamespace) -> None:
    for decoder in _decoder(folders, max_batch=1, max_waiting=2):
        running = [Answer(decoder, "Hi", limit=300)]
        running[0].outputs.get(timeout=30)
        running += [Answer(decoder, "Hi", limit=1) for _ in range(2)]
        with pytest.raises(ApiError) as refused:
            Answer(decoder, "Hi")
        assert refused.value.status == 429 and refused.value.headers["retry-after"] == "1"
        running[0].row.cancelled = True
        for answer in running[1:]:
            answer.wait()


def test_an_adapter_in_use_leaves_after_its_last_answer(folders: SimpleNamespace) -> None:
    for decoder in _decoder(folders):
        running = Answer(decoder, QUESTIONS[0], model="red", limit=200)
        running.outputs.get(timeout=30)
        decoder.remove_adapter("red")
        with pytest.raises(ApiError) as gone:
            Answer(decoder, "Hi", model="red")
        assert gone.value.status == 404
        running.wait()
        blue = Answer(decoder, "Hi", model="blue").text
        for name in ("blue", "dora"):
            decoder.remove_adapter(name)
        base = Answer(decoder, "Hi").text
        decoder.add_adapter("blue", folders.blue).result(timeout=30)
        assert Answer(decoder, "Hi", model="blue").text == blue
        assert Answer(decoder, "Hi").text == base


def test_one_failing_request_does_not_take_the_others_along(shared: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Answer(shared, QUESTIONS[0], limit=60).text
    running = Answer(shared, QUESTIONS[0], limit=60)
    running.outputs.get(timeout=30)
    poisoned = Answer.__new__(Answer)
    poisoned.outputs = queue.Queue()
    voice = shared.voice(BASE)
    shared.submit(voice, [10**6], limit=5, sampling=GREEDY, stops=(), send=poisoned.outputs.put)  # no such token
    with pytest.raises(ApiError) as failed:
        poisoned.wait()
    assert failed.value.status == 500
    running.wait()
    assert Answer(shared, QUESTIONS[0], limit=60).text == expected


def test_what_cannot_be_served_is_refused_in_words(folders: SimpleNamespace, tmp_path: Path, shared: Decoder) -> None:
    from project.contracts.runs import UserError

    (tmp_path / "adapter_config.json").write_text('{"peft_type": "CPT"}')
    with pytest.raises(UserError, match="CPT are not served"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "bias": "all"}')
    with pytest.raises(UserError, match="biases"):
        check_adapter(tmp_path)
    with pytest.raises(UserError, match="is taken"):
        shared.add_adapter("red", folders.blue).result(timeout=30)
    shared.add_adapter("red", folders.red).result(timeout=30)  # the same again is no error
