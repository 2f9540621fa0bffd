"""From messages to token ids, and which of them are learned: the only place where a chat template is applied.

Training, evaluation, serving and reports all call this module, so what is trained is what is served.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, as_messages
from project.contracts.runs import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]] | None


class TemplateError(UserError):
    """The model's chat template can't express these messages, or renders them in a way that can't be trained."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of one row. `mask` is 1 where the token is learned; `dropped` counts tokens cut off at the end."""

    ids: list[int]
    mask: list[int]
    dropped: int = 0

    @property
    def learned(self) -> int:
        """How many tokens the loss is taken over."""
        return sum(self.mask)

    def cut(self, max_length: int | None) -> "Rendered":
        """At most the first `max_length` tokens."""
        if max_length is None or len(self.ids) <= max_length:
            return self
        return Rendered(self.ids[:max_length], self.mask[:max_length], self.dropped + len(self.ids) - max_length)


@dataclass(frozen=True, slots=True)
class Question:
    """The prompt of a row and the answer its author wanted: what an evaluation asks and compares with."""

    ids: list[int]
    text: str
    reference: str


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    tools: Tools = None,
) -> Rendered:
    """Ids and mask of a conversation. Learned are the assistant's turns without `weight: 0`, with their end tokens.

    The template is applied to the conversation up to each learned turn, and then with it: the first must begin the
    second, in text and in ids, because the first is what serving sends. Nothing is added but what the template adds.
    `tools` are descriptions of functions the model may call, which the template writes where it wants them.
    Raises TemplateError. With `add_generation_prompt` nothing is learned: it is a prompt.
    """
    whole = _template(tokenizer, messages, add_generation_prompt=add_generation_prompt, tools=tools)
    ids: list[int] = []
    mask: list[int] = []
    start = 0
    turns = [] if add_generation_prompt else [i for i, message in enumerate(messages) if _is_learned(message)]
    for turn in turns:
        prompt, through = _around(tokenizer, messages, turn, whole, tools)
        between = _encode(tokenizer, whole[start : len(prompt)])
        ids += between
        mask += [0] * len(between)
        if start and ids != _encode(tokenizer, prompt):
            raise _disagreement(turn, "splits the text into tokens differently")
        answer = _encode(tokenizer, whole[len(prompt) : len(through)])
        end = _end_of_turn(tokenizer, answer)
        ids += answer
        mask += [1] * end + [0] * (len(answer) - end)
        start = len(through)
    rest = _encode(tokenizer, whole[start:])
    return Rendered(ids + rest, mask + [0] * len(rest)).cut(max_length)


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, tools: Tools = None) -> list[int]:
    """The ids a model is given to answer `messages`."""
    return render(tokenizer, messages, add_generation_prompt=True, tools=tools).ids


def render_row(
    tokenizer: "PreTrainedTokenizerBase", row: ChatRow | CompletionRow, *, max_length: int | None = None
) -> Rendered:
    """Ids and mask of one row. Without a chat template a completion row is prompt, completion and the end token."""
    if isinstance(row, CompletionRow) and not tokenizer.chat_template:
        prompt = _plain_prompt(tokenizer, row.prompt)
        answer = [*_encode(tokenizer, row.completion), *_end_token(tokenizer)]
        return Rendered(prompt + answer, [0] * len(prompt) + [1] * len(answer)).cut(max_length)
    return render(tokenizer, as_messages(row), max_length=max_length, tools=_tools(row))


def question(tokenizer: "PreTrainedTokenizerBase", row: ChatRow | CompletionRow) -> Question | None:
    """What to ask and what to expect: the row's last assistant turn and everything before it. None if there is none."""
    if isinstance(row, CompletionRow) and not tokenizer.chat_template:
        return Question(_plain_prompt(tokenizer, row.prompt), row.prompt, row.completion)
    messages = as_messages(row)
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
    if not last:
        return None
    before = messages[:last]
    asked = next((message.content for message in reversed(before) if message.role == "user"), before[-1].content)
    return Question(prompt_ids(tokenizer, before, tools=_tools(row)), asked, messages[last].content)


def _tools(row: ChatRow | CompletionRow) -> Tools:
    return row.tools if isinstance(row, ChatRow) else None


def _is_learned(message: Message) -> bool:
    return message.role == "assistant" and message.weight != 0


def _around(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], turn: int, whole: str, tools: Tools
) -> tuple[str, str]:
    """The text before the answer and the text through it. Both must begin what is trained."""
    if turn == 0:
        raise TemplateError(
            "The conversation begins with an assistant's turn, so there is no prompt to learn it from.",
            hint="Begin with a user's or a system's turn, or give the first turn weight 0.",
            field="data",
        )
    prompt = _template(tokenizer, messages[:turn], add_generation_prompt=True, tools=tools)
    last = turn == len(messages) - 1
    through = whole if last else _template(tokenizer, messages[: turn + 1], add_generation_prompt=False, tools=tools)
    if not through.startswith(prompt):
        raise _disagreement(turn, "renders the prompt alone differently from the prompt with its answer")
    if not whole.startswith(through):
        raise _disagreement(turn, "rewrites a turn once others follow it")
    return prompt, through


def _disagreement(turn: int, what: str) -> TemplateError:
    return TemplateError(
        f"The model's chat template {what} (turn {turn + 1}), so it can't be trained as it would be served.",
        hint="Give every assistant's turn but the last weight 0, or choose a model with another template.",
        field="data",
    )


def _template(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    tools: Tools,
) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(
            "This model has no chat template, so it can't take messages.",
            hint="Choose an instruct or chat model, or use prompt/completion rows.",
            field="base",
        )
    if not messages:
        raise TemplateError("A conversation needs at least one message.", field="messages")
    from jinja2.exceptions import TemplateError as JinjaError

    plain = [message.for_template() for message in messages]
    given = [dict(tool) for tool in tools] if tools else None
    try:
        text = tokenizer.apply_chat_template(
            plain, tools=given, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (JinjaError, ValueError) as error:
        roles = ", ".join(message.role for message in messages)
        raise TemplateError(
            f"The model's chat template refuses these messages ({roles}): {error}",
            hint="Use the roles and the order of turns that this model was made for.",
            field="messages",
        ) from error
    _refuse_lost_tools(str(text), messages, tools)
    return str(text)


def _refuse_lost_tools(text: str, messages: Sequence[Message], tools: Tools) -> None:
    """Many templates know nothing of tools and leave them out without a word: the model would learn empty answers."""
    called = {call.function.name for message in messages for call in message.tool_calls or ()}
    described = {str(tool.get("function", tool).get("name", "")) for tool in tools or ()}
    lost = sorted(name for name in called | described if name not in text)
    if lost:
        what = "calls of tools" if lost[0] in called else "descriptions of tools"
        raise TemplateError(
            f"The model's chat template leaves out {what} ('{lost[0]}').",
            hint="Choose a model whose template knows tools, or write the calls into the content of the turns.",
            field="data",
        )


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of a piece of text. The template writes special tokens itself, so none are added here."""
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []


def _plain_prompt(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of a prompt for a model without a template: with the start token the tokenizer puts there, without an end."""
    ids = list(tokenizer(text).input_ids)
    while ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id:
        ids.pop()
    return ids or [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None][:1]


def _end_token(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _end_of_turn(tokenizer: "PreTrainedTokenizerBase", answer: list[int]) -> int:
    """How many tokens of `answer` a model must say: through the last special token, else all.

    Templates write white space after the end of a turn; nobody generates it, because generation ends before.
    """
    special = _special_ids(tokenizer)
    return next((i + 1 for i in range(len(answer) - 1, -1, -1) if answer[i] in special), len(answer))


_SPECIAL: "WeakKeyDictionary[PreTrainedTokenizerBase, frozenset[int]]" = WeakKeyDictionary()


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    if tokenizer not in _SPECIAL:  # slow to collect, and asked for once per turn of every row
        added = (id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)
        _SPECIAL[tokenizer] = frozenset(added) | frozenset(tokenizer.all_special_ids)
    return _SPECIAL[tokenizer]
