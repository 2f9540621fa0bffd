"""From messages to token ids, and which of them are learned: the only place where a chat template is applied.

Training, evaluation, serving and reports all call this module, so what is trained is what is served.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, as_messages
from project.contracts.runs import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS, BATCH_CHARACTERS = 256, 1_000_000  # rendered at once by `render_rows`: more is slower

Tools = Sequence[Mapping[str, Any]] | None
_Part = tuple[int, bool]  # the first so many messages of a conversation, with a generation prompt or without


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
    turns = [] if add_generation_prompt else _learned_turns(messages)
    parts = _parts(len(messages), turns, add_generation_prompt=add_generation_prompt)
    texts = {(end, ask): _template(tokenizer, messages[:end], ask, tools) for end, ask in parts}
    pieces = _Pieces(turns, texts)
    return pieces.joined(tokenizer, _encode_all(tokenizer, pieces.texts)).cut(max_length)


def _learned_turns(messages: Sequence[Message]) -> list[int]:
    return [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight != 0]


def _parts(count: int, turns: Sequence[int], *, add_generation_prompt: bool = False) -> list[_Part]:
    """What the template is applied to: the whole conversation, and what is before each learned turn and through it."""
    if turns and turns[0] == 0:
        raise TemplateError(
            "The conversation begins with an assistant's turn, so there is no prompt to learn it from.",
            hint="Begin with a user's or a system's turn, or give the first turn weight 0.",
            field="data",
        )
    around = (part for turn in turns for part in ((turn, True), (turn + 1, False)))
    return list(dict.fromkeys([(count, add_generation_prompt), *around]))


class _Pieces:
    """A conversation cut into `texts`, which are encoded one by one and joined again.

    `written` is what the template makes of `_parts`, the whole first. Raises TemplateError where they disagree.
    """

    __slots__ = ("_turns", "texts")

    def __init__(self, turns: Sequence[int], written: Mapping[_Part, str]) -> None:
        whole, start = next(iter(written.values())), 0
        self._turns = turns
        self.texts: list[str] = []  # for each turn what leads to it, the answer, and all before it if that was cut
        for turn in turns:
            prompt, through = written[turn, True], written[turn + 1, False]
            if not through.startswith(prompt):
                raise _disagreement(turn, "renders the prompt alone differently from the prompt with its answer")
            if not whole.startswith(through):
                raise _disagreement(turn, "rewrites a turn once others follow it")
            self.texts += [whole[start : len(prompt)], whole[len(prompt) : len(through)], prompt if start else ""]
            start = len(through)
        self.texts.append(whole[start:])

    def joined(self, tokenizer: "PreTrainedTokenizerBase", encoded: Sequence[list[int]]) -> Rendered:
        """Ids and mask of the conversation; `encoded` are the ids of `texts`. Raises TemplateError."""
        ids: list[int] = []
        mask: list[int] = []
        for index, turn in enumerate(self._turns):
            between, answer, before = encoded[3 * index : 3 * index + 3]
            ids += between
            mask += [0] * len(between)
            if index and ids != before:
                raise _disagreement(turn, "splits the text into tokens differently")
            end = _end_of_turn(tokenizer, answer)
            ids += answer
            mask += [1] * end + [0] * (len(answer) - end)
        rest = encoded[-1]
        return Rendered(ids + rest, mask + [0] * len(rest))


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


def render_rows(
    tokenizer: "PreTrainedTokenizerBase", rows: Iterable[ChatRow | CompletionRow], *, max_length: int | None = None
) -> Iterator[Rendered | TemplateError]:
    """What `render_row` gives or raises for each row, in order, several times as fast.

    Templates are applied to a batch of rows at once, and their tokens are found on other cores while those of the next
    rows are. Two batches are in memory.
    """
    with ThreadPoolExecutor(1, "encode") as encoder:
        ahead: tuple[list[_Pieces | Rendered | TemplateError], Future[list[list[int]]]] | None = None
        for batch in _batches(rows):
            cut = _cut(tokenizer, batch)
            texts = [text for one in cut if isinstance(one, _Pieces) for text in one.texts]
            before, ahead = ahead, (cut, encoder.submit(_encode_all, tokenizer, texts))
            if before:
                yield from _joined(tokenizer, before[0], before[1].result(), max_length)
        if ahead:
            yield from _joined(tokenizer, ahead[0], ahead[1].result(), max_length)


def _batches(rows: "Iterable[ChatRow | CompletionRow]") -> "Iterator[list[ChatRow | CompletionRow]]":
    batch: list[ChatRow | CompletionRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(len(message.content) for message in as_messages(row))
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _cut(
    tokenizer: "PreTrainedTokenizerBase", rows: "Sequence[ChatRow | CompletionRow]"
) -> "list[_Pieces | Rendered | TemplateError]":
    """Each row in pieces; an unusual one as `render_row` has it, which knows all kinds."""
    usual: dict[int, tuple[list[int], list[_Part]]] = {}
    asked: dict[bool, list[list[dict[str, Any]]]] = {False: [], True: []}
    for index, row in enumerate(rows):
        messages = as_messages(row)
        turns = _learned_turns(messages)
        calls = _tools(row) or any(message.tool_calls for message in messages)
        if tokenizer.chat_template and messages and not calls and 0 not in turns:
            plain = [message.for_template() for message in messages]
            usual[index] = turns, _parts(len(messages), turns)
            for end, ask in usual[index][1]:
                asked[ask].append(plain[:end])
    from jinja2.exceptions import TemplateError as JinjaError

    try:
        written = {ask: iter(_written(tokenizer, conversations, ask)) for ask, conversations in asked.items()}
    except (JinjaError, ValueError):  # of one row at least: which, and why, they say alone
        usual = {}
    return [
        _pieces(usual[index][0], {part: next(written[part[1]]) for part in usual[index][1]})
        if index in usual
        else _alone(tokenizer, row)
        for index, row in enumerate(rows)
    ]


def _pieces(turns: list[int], written: Mapping[_Part, str]) -> "_Pieces | TemplateError":
    try:
        return _Pieces(turns, written)
    except TemplateError as error:
        return error


def _alone(tokenizer: "PreTrainedTokenizerBase", row: ChatRow | CompletionRow) -> Rendered | TemplateError:
    try:
        return render_row(tokenizer, row)
    except TemplateError as error:
        return error


def _joined(
    tokenizer: "PreTrainedTokenizerBase",
    cut: "Sequence[_Pieces | Rendered | TemplateError]",
    encoded: Sequence[list[int]],
    max_length: int | None,
) -> Iterator[Rendered | TemplateError]:
    at = 0
    for one in cut:
        if isinstance(one, TemplateError):
            yield one
            continue
        if isinstance(one, _Pieces):
            end = at + len(one.texts)
            try:
                one = one.joined(tokenizer, encoded[at:end])
            except TemplateError as error:
                yield error
                continue
            finally:
                at = end
        yield one.cut(max_length)


def text_ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Ids of whole texts as models are pretrained on them: with what the tokenizer puts around a text, and its end."""
    ends = _end_token(tokenizer)
    found = (list(ids) for ids in tokenizer(list(texts)).input_ids) if texts else ()
    return [ids if ids[-1:] == ends else ids + ends for ids in found]


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


def _disagreement(turn: int, what: str) -> TemplateError:
    return TemplateError(
        f"The model's chat template {what} (turn {turn + 1}), so it can't be trained as it would be served.",
        hint="Give every assistant's turn but the last weight 0, or choose a model with another template.",
        field="data",
    )


def _template(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], add_generation_prompt: bool, tools: Tools
) -> str:
    """The messages as the template writes them. Raises TemplateError."""
    if not tokenizer.chat_template:
        raise TemplateError(
            "This model has no chat template, so it can't take messages.",
            hint="Choose an instruct or chat model, or use prompt/completion rows.",
            field="base",
        )
    if not messages:
        raise TemplateError("A conversation needs at least one message.", field="messages")
    from jinja2.exceptions import TemplateError as JinjaError

    given = [dict(tool) for tool in tools] if tools else None
    try:
        [text] = _written(tokenizer, [[message.for_template() for message in messages]], add_generation_prompt, given)
    except (JinjaError, ValueError) as error:
        roles = ", ".join(message.role for message in messages)
        raise TemplateError(
            f"The model's chat template refuses these messages ({roles}): {error}",
            hint="Use the roles and the order of turns that this model was made for.",
            field="messages",
        ) from error
    _refuse_lost_tools(text, messages, tools)
    return text


def _written(
    tokenizer: "PreTrainedTokenizerBase",
    conversations: list[list[dict[str, Any]]],
    add_generation_prompt: bool,
    tools: list[dict[str, Any]] | None = None,
) -> list[str]:
    """Each conversation (none is empty) as the template writes it. Raises what jinja2 and the template raise.

    That is `apply_chat_template`, or, where no tools are described, its own compiled template without the copies of
    every message that protect templates from rich objects: these are texts.
    """
    if not conversations:
        return []
    compiled = None if tools else _compiled(tokenizer)
    if compiled is None:
        texts: list[str] = tokenizer.apply_chat_template(
            conversations, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return texts
    known = {**compiled.globals, **{name: str(token) for name, token in tokenizer.special_tokens_map.items()}}
    known |= {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
    concat, write = compiled.environment.concat, compiled.root_render_func
    # What `compiled.render` does, with the globals put together once instead of for every conversation.
    return [concat(write(compiled.new_context({**known, "messages": one}, shared=True))) for one in conversations]


def _compiled(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The template as transformers compiles it (and keeps it); None for a tokenizer with ways of its own."""
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    compile_ = getattr(chat_template_utils, "_compile_jinja_template", None)
    if compile_ is None or type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return None
    return compile_(tokenizer.get_chat_template())


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
    return _encode_all(tokenizer, [text])[0]


def _encode_all(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """`_encode` of several texts, on all cores."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind, given = type(tokenizer), list(dict.fromkeys(texts))  # line breaks between turns, answers of a few words
    if not any(given):
        return [[] for _ in texts]
    if (
        issubclass(kind, PreTrainedTokenizerFast)
        and kind.__call__ is PreTrainedTokenizerBase.__call__
        and kind._encode_plus is PreTrainedTokenizerFast._encode_plus
    ):  # what that does with its backend, but for the offsets, which take half of the time
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        ids = [encoding.ids for encoding in backend.encode_batch_fast(given, add_special_tokens=False)]
    else:
        ids = [list(ids) for ids in tokenizer(given, add_special_tokens=False).input_ids]
    found = dict(zip(given, ids, strict=True)) | {"": []}
    return [found[text] for text in texts]


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
