"""What is learned, and that what is trained is what is served."""

from pathlib import Path

import pytest

from project.contracts.chat import FunctionCall, Message, ToolCall
from project.contracts.rows import ChatRow, CompletionRow
from project.modeling import render as render_module
from project.modeling.loading import load_tokenizer
from project.modeling.render import Rendered, TemplateError, prompt_ids, question, render, render_row, render_rows

SMOL = (  # SmolLM2's own: it adds a system turn where there is none
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = (  # drops what is in <think> from all turns but the last, as reasoning models do
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = (  # as those of models that know tools: descriptions first, calls as JSON
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}x"
GLUED = "{% for m in messages %}{{ m.role }}:{{ m.content }} {% endfor %}{% if add_generation_prompt %}bot:{% endif %}"


def talk(*turns: str, system: str = "", weights: tuple[int | None, ...] = ()) -> list[Message]:
    roles = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=text) for i, text in enumerate(turns)]
    for i, weight in enumerate(weights):
        messages[2 * i + 1] = messages[2 * i + 1].model_copy(update={"weight": weight})
    return [Message(role="system", content=system), *messages] if system else messages


@pytest.fixture
def tokenizer(tiny: Path):
    return load_tokenizer(tiny)


def learned(tokenizer, rendered) -> str:
    return tokenizer.decode([i for i, kept in zip(rendered.ids, rendered.mask, strict=True) if kept])


def test_only_the_answer_and_its_end_are_learned(tokenizer) -> None:
    rendered = render(tokenizer, talk("What?", "That."))
    assert tokenizer.decode(rendered.ids) == (
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>\n"
    )
    assert learned(tokenizer, rendered) == "That.<|im_end|>"
    assert rendered.mask[-1] == 0  # the line break after the end is the template's


def test_every_answer_of_a_conversation_is_learned_but_those_of_weight_0(tokenizer) -> None:
    assert learned(tokenizer, render(tokenizer, talk("a", "one", "b", "two"))) == "one<|im_end|>two<|im_end|>"
    rendered = render(tokenizer, talk("a", "one", "b", "two", weights=(0, 1)))
    assert learned(tokenizer, rendered) == "two<|im_end|>"
    assert "one" in tokenizer.decode(rendered.ids)


def test_what_is_trained_begins_with_what_is_served(tokenizer) -> None:
    messages = talk("Wo ist das naïve 漢字?", "Dort 🦊.", "Und?", "Hier.", system="Short.")
    rendered = render(tokenizer, messages)
    for turn in (2, 4):
        served = prompt_ids(tokenizer, messages[:turn])
        assert rendered.ids[: len(served)] == served
        assert rendered.mask[len(served) - 1] == 0 and rendered.mask[len(served)] == 1


def test_the_mask_is_the_same_as_that_of_the_text_tokenised_at_once(tokenizer) -> None:
    messages = talk("Hello there", "General", "and", "more of it", system="s")
    whole = tokenizer.apply_chat_template([m.model_dump(include={"role", "content"}) for m in messages], tokenize=False)
    assert render(tokenizer, messages).ids == tokenizer(whole, add_special_tokens=False).input_ids


def test_a_template_may_add_a_system_turn_of_its_own(tokenizer) -> None:
    tokenizer.chat_template = SMOL
    rendered = render(tokenizer, talk("a", "one"))
    assert tokenizer.decode(rendered.ids).startswith("<|im_start|>system\nYou are a helpful AI")
    assert learned(tokenizer, rendered) == "one<|im_end|>"


def test_nothing_is_learned_from_a_prompt_or_from_users(tokenizer) -> None:
    assert render(tokenizer, talk("a", "one", "b"), add_generation_prompt=True).learned == 0
    assert render(tokenizer, talk("a")).learned == 0


def test_a_long_row_is_cut_and_says_by_how_much(tokenizer) -> None:
    whole = render(tokenizer, talk("question", "a long answer"))
    cut = render(tokenizer, talk("question", "a long answer"), max_length=len(whole.ids) - 4)
    assert (cut.ids, cut.mask, cut.dropped) == (whole.ids[:-4], whole.mask[:-4], 4)
    assert render(tokenizer, talk("question", "answer"), max_length=3).learned == 0


def test_a_template_that_rewrites_earlier_turns_is_refused_unless_only_the_last_is_learned(tokenizer) -> None:
    tokenizer.chat_template = FORGETFUL
    messages = talk("a", "<think>hm</think>one", "b", "<think>so</think>two")
    with pytest.raises(TemplateError, match="rewrites a turn") as caught:
        render(tokenizer, messages)
    assert "weight 0" in caught.value.hint
    last_only = talk("a", "<think>hm</think>one", "b", "<think>so</think>two", weights=(0, 1))
    assert learned(tokenizer, render(tokenizer, last_only)) == "<think>so</think>two<|im_end|>"


def test_a_template_whose_prompt_is_not_the_beginning_is_refused(tokenizer) -> None:
    tokenizer.chat_template = GLUED
    with pytest.raises(TemplateError, match="renders the prompt alone differently"):
        render(tokenizer, talk("a", "one"))


def test_a_template_without_end_tokens_has_its_whole_answer_learned(tokenizer) -> None:
    tokenizer.chat_template = GLUED.replace("bot:", "assistant:")
    assert learned(tokenizer, render(tokenizer, talk("a", "one"))) == "one "


def test_a_refusal_of_the_template_is_the_users_to_read(tokenizer) -> None:
    tokenizer.chat_template = STRICT
    with pytest.raises(TemplateError, match="no system turn here"):
        render(tokenizer, talk("a", system="s"))


def test_a_conversation_that_begins_with_an_answer_says_what_to_do(tokenizer) -> None:
    with pytest.raises(TemplateError, match="begins with an assistant"):
        render(tokenizer, [Message(role="assistant", content="hi"), *talk("a", "b")])
    greeting = Message(role="assistant", content="hi", weight=0)
    assert learned(tokenizer, render(tokenizer, [greeting, *talk("a", "b")])) == "b<|im_end|>"


def test_without_a_template_messages_are_refused_and_completions_are_plain(bare: Path) -> None:
    tokenizer = load_tokenizer(bare)
    with pytest.raises(TemplateError, match="no chat template"):
        render_row(tokenizer, ChatRow(messages=tuple(talk("a", "b"))))
    rendered = render_row(tokenizer, CompletionRow(prompt="2 + 2 =", completion=" 4"))
    assert tokenizer.decode(rendered.ids) == "2 + 2 = 4<|im_end|>"
    assert learned(tokenizer, rendered) == " 4<|im_end|>"


def test_a_completion_row_is_a_conversation_where_there_is_a_template(tokenizer) -> None:
    row = CompletionRow(prompt="2 + 2?", completion="4")
    assert render_row(tokenizer, row) == render(tokenizer, talk("2 + 2?", "4"))


def test_a_question_is_the_prompt_before_the_last_answer(tokenizer, bare: Path) -> None:
    messages = talk("a", "one", "b", "two", system="s")
    asked = question(tokenizer, ChatRow(messages=tuple(messages)))
    assert asked is not None
    assert (asked.ids, asked.text, asked.reference) == (prompt_ids(tokenizer, messages[:4]), "b", "two")
    assert question(tokenizer, ChatRow(messages=tuple(talk("a")))) is None
    plain = question(load_tokenizer(bare), CompletionRow(prompt="2 =", completion=" 2"))
    assert plain is not None and (plain.text, plain.reference) == ("2 =", " 2")


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def a_call(arguments: str) -> ChatRow:
    call = ToolCall(id="c1", function=FunctionCall(name="weather", arguments=arguments))
    return ChatRow(
        tools=(WEATHER,),
        messages=(
            Message(role="user", content="Rain?"),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content="dry", tool_call_id="c1"),
            Message(role="assistant", content="No."),
        ),
    )


def test_tools_and_calls_go_through_the_template_and_are_learned(tokenizer) -> None:
    tokenizer.chat_template = TOOLS
    row = a_call('{"city": "Oslo"}')
    rendered = render_row(tokenizer, row)
    text = tokenizer.decode(rendered.ids)
    assert text.startswith("<tools>") and '"name": "weather"' in text
    assert learned(tokenizer, rendered) == '<call>weather {"city": "Oslo"}</call><|im_end|>No.<|im_end|>'
    assert render_row(tokenizer, row.model_copy(update={"tools": None})).ids != rendered.ids
    asked = question(tokenizer, row)
    assert asked is not None and tokenizer.decode(asked.ids).startswith("<tools>") and asked.reference == "No."


def test_arguments_that_are_no_json_reach_the_template_as_the_text_they_are(tokenizer) -> None:
    tokenizer.chat_template = TOOLS
    assert '<call>weather "{city"</call>' in tokenizer.decode(render_row(tokenizer, a_call("{city")).ids)


def test_a_template_that_drops_tools_is_refused(tokenizer) -> None:
    row = a_call("{}")
    with pytest.raises(TemplateError, match="leaves out calls of tools \\('weather'\\)"):
        render_row(tokenizer, row)
    with pytest.raises(TemplateError, match="leaves out descriptions of tools"):
        render(tokenizer, row.messages[:1], tools=row.tools, add_generation_prompt=True)


MANY = [
    ChatRow(messages=tuple(talk("a question", "an answer"))),
    CompletionRow(prompt="2 + 2 =", completion=" 4"),
    ChatRow(messages=tuple(talk("a", "<think>why</think>one", "b", "two", system="Be kind."))),
    ChatRow(messages=tuple(talk("a", "one", "b", "two", "c", "three", weights=(0, 1, 0)))),
    ChatRow(messages=(Message(role="assistant", content="I begin."), *talk("a", "b"))),
    ChatRow(messages=tuple(talk("only a question"))),
    ChatRow(messages=tuple(talk("", ""))),
    ChatRow(messages=tuple(talk("q", "long " * 60))),
    ChatRow(messages=tuple(talk("weather?")), tools=({"type": "function", "function": {"name": "weather"}},)),
    ChatRow(messages=tuple(talk("سؤال", "答え 🙂"))),
]


TELLING = "{{ bos_token }}{{ messages }}{{ tools }}{{ documents }}{{ eos_token if add_generation_prompt }}"
TEMPLATES = ["", SMOL, FORGETFUL, TOOLS, STRICT, GLUED, TELLING, None]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: str(template)[:30])
def test_many_rows_at_once_are_rendered_as_each_alone(tokenizer, template: str | None, monkeypatch) -> None:
    """As each alone, by a tokenizer whose own ways must be used."""

    def alone(row: ChatRow | CompletionRow) -> object:
        try:
            return render_row(tokenizer, row, max_length=40)
        except TemplateError as error:
            return str(error)

    if template != "":
        tokenizer.chat_template = template
    rows, plain = MANY * 3, type(tokenizer)
    call, apply = plain.__call__, plain.apply_chat_template
    own = {
        "__call__": lambda self, *given, **more: call(self, *given, **more),
        "apply_chat_template": lambda self, *given, **more: apply(self, *given, **more),
    }
    tokenizer.__class__ = type("Own", (plain,), own)
    expected = [alone(row) for row in rows]
    tokenizer.__class__ = plain
    assert [alone(row) for row in rows] == expected
    monkeypatch.setattr(render_module, "BATCH_ROWS", 7)
    found = [str(one) if isinstance(one, TemplateError) else one for one in render_rows(tokenizer, rows, max_length=40)]
    assert found == expected
    assert any(isinstance(one, Rendered) for one in found) or template in (STRICT, TELLING)
