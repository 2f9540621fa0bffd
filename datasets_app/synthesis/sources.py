"""What a model is asked so that it writes rows: filled templates, pieces of documents, or examples. Pure.

Each source gives questions (`asks`), the same for the same seed, and reads the answers (`rows_of`).
"""

import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from datasets_app.editing import origin_of, text_of
from datasets_app.importing import Entry
from datasets_app.preparing import chance
from datasets_app.synthesis.quality import Alike, is_grounded
from datasets_app.synthesis.writing import Ask
from project.contracts.chat import Message
from project.contracts.runs import UserError

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ALL_ORDERED = 200_000  # so many combinations are shuffled; of more, some are drawn
_MOST_KEPT = 20_000  # pieces of documents, or examples, held in memory; of more, a fair choice
_SHOTS = 4  # examples shown at a time
_PAIR = re.compile(
    r"(?:^|\n)[\s>*#\d.)-]*(?:question|q)\s*\d*\s*[:.)]\**\s*(?P<question>.+?)"
    r"\n[\s>*#-]*(?:answer|a)\s*\d*\s*[:.)]\**\s*(?P<answer>.+?)(?=\n[\s>*#\d.)-]*(?:question|q)\s*\d*\s*[:.)]|\Z)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Proposal:
    """A question and an answer that may become a row. `origin` is the hash of the row they were made from."""

    question: str
    answer: str
    origin: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    def asks(self) -> Iterator[Ask]: ...

    def proposals(self, ask: Ask, text: str) -> list[Proposal]:
        """What an answer holds; nothing where it can't be read."""

    def fault_of(self, proposal: Proposal, ask: Ask) -> str:
        """Why a proposal is not good enough, '' if it is. Remembers those that are."""


# --- templates


class Templates:
    """Every template with every combination of its values, in a random order; with chance, again and again."""

    def __init__(
        self, templates: Sequence[str], values: Mapping[str, Sequence[str]], *, system: str, seed: int, again: bool
    ) -> None:
        self._templates, self._values, self._system, self._seed, self._again = templates, values, system, seed, again
        self._names = [list(dict.fromkeys(PLACEHOLDER.findall(template))) for template in templates]
        self._sizes = [self._combinations(names) for names in self._names]
        self._seen: set[tuple[str, str]] = set()

    def _combinations(self, names: Sequence[str]) -> int:
        count = 1
        for name in names:
            count *= len(self._values[name])
        return count

    @property
    def size(self) -> int:
        """How many different questions there are."""
        return sum(self._sizes)

    def asks(self) -> Iterator[Ask]:
        number = 0
        for round_ in itertools.count() if self._again else range(1):
            for place in self._order(round_):
                question, about = self._filled(place)
                messages: tuple[Message, ...] = (Message(role="user", content=question),)
                if self._system:
                    messages = (Message(role="system", content=self._system), *messages)
                yield Ask(number, messages, round_, (question, about))
                number += 1

    def _order(self, round_: int) -> Iterable[int]:
        mixed = chance(f"{self._seed}", "templates", f"{round_}")
        if self.size <= _ALL_ORDERED:
            places = list(range(self.size))
            mixed.shuffle(places)
            return places
        return (mixed.randrange(self.size) for _ in range(_ALL_ORDERED))

    def _filled(self, place: int) -> tuple[str, dict[str, Any]]:
        which = 0
        while place >= self._sizes[which]:
            place -= self._sizes[which]
            which += 1
        chosen: dict[str, str] = {}
        for name in self._names[which]:
            place, at = divmod(place, len(self._values[name]))
            chosen[name] = self._values[name][at]
        question = PLACEHOLDER.sub(lambda match: chosen[match[1]], self._templates[which])
        return question, {"template": which + 1, "values": chosen}

    def proposals(self, ask: Ask, text: str) -> list[Proposal]:
        question, about = ask.about
        return [Proposal(question, text.strip(), about=about)]

    def fault_of(self, proposal: Proposal, ask: Ask) -> str:
        key = (proposal.question, proposal.answer)
        if key in self._seen:
            return "the same again"
        self._seen.add(key)
        return ""


def missing_values(templates: Sequence[str], values: Mapping[str, Sequence[str]]) -> list[str]:
    """Placeholders without values."""
    wanted = dict.fromkeys(name for template in templates for name in PLACEHOLDER.findall(template))
    return [name for name in wanted if not values.get(name)]


# --- documents

_FORMAT = "Write each as two lines:\nQuestion: ...\nAnswer: ...\nWrite nothing else."


class Documents:
    """Pieces of texts, about which the model writes questions that the piece answers."""

    def __init__(
        self,
        rows: Iterable[Entry],
        *,
        characters: int,
        pairs: int,
        instructions: str,
        seed: int,
        similarity: float,
        grounded: float,
    ) -> None:
        self._pairs, self._instructions, self._seed, self._grounded = pairs, instructions, seed, grounded
        pieces = (
            (piece, origin_of(row), row.number) for row in rows for piece in pieces_of(text_of(row, "all"), characters)
        )
        self._pieces = _some(pieces, chance(f"{seed}", "documents"))
        self._alike = Alike(similarity)
        if not self._pieces:
            raise UserError("The documents hold no text.", field="documents")

    def asks(self) -> Iterator[Ask]:
        number = 0
        for round_ in itertools.count():
            order = list(range(len(self._pieces)))
            chance(f"{self._seed}", "order", f"{round_}").shuffle(order)
            for place in order:
                piece, origin, row = self._pieces[place]
                yield Ask(number, self._messages(piece), round_, (piece, origin, row))
                number += 1

    def _messages(self, piece: str) -> tuple[Message, ...]:
        task = (
            f"Write {self._pairs} questions that the text below answers, each with its answer. Take the answers from "
            f"the text only, in its language. A question must be understood without seeing the text.\n{_FORMAT}"
        )
        more = f"\n{self._instructions}" if self._instructions else ""
        return (Message(role="user", content=f"{task}{more}\n\nText:\n{piece}"),)

    def proposals(self, ask: Ask, text: str) -> list[Proposal]:
        _, origin, row = ask.about
        return [Proposal(question, answer, origin, {"row": row}) for question, answer in pairs_in(text)]

    def fault_of(self, proposal: Proposal, ask: Ask) -> str:
        piece, _, _ = ask.about
        fault = is_grounded(proposal.answer, piece, question=proposal.question, share=self._grounded)
        if fault:
            return fault
        return "" if self._alike.is_new(proposal.question) else "almost the same question again"


def pieces_of(text: str, characters: int) -> Iterator[str]:
    """The text in pieces of about so many characters, cut between paragraphs, else sentences, else anywhere."""
    piece = ""
    for part in _parts(text, characters):
        if piece and len(piece) + len(part) > characters:
            yield piece.strip()
            piece = ""
        piece += part
    if piece.strip():
        yield piece.strip()


def _parts(text: str, characters: int) -> Iterator[str]:
    for paragraph in re.split(r"(?<=\n)\s*\n", text):
        if len(paragraph) <= characters:
            yield f"{paragraph}\n\n"
            continue
        for sentence in re.split(r"(?<=[.!?。！？])\s*", paragraph):
            for start in range(0, len(sentence), characters):
                yield sentence[start : start + characters] + (" " if len(sentence) <= characters else "")


# --- examples


class Seeds:
    """A few examples, after which the model writes new ones that resemble none before (self-instruct, Wang 2022)."""

    def __init__(self, rows: Iterable[Entry], *, pairs: int, instructions: str, seed: int, similarity: float) -> None:
        self._pairs, self._instructions, self._seed = pairs, instructions, seed
        examples = ((text_of(row, "prompt").strip(), text_of(row, "answer").strip()) for row in rows)
        self._examples = _some((each for each in examples if all(each)), chance(f"{seed}", "examples"))
        self._alike = Alike(similarity)
        if not self._examples:
            raise UserError(
                "The examples hold no question with an answer.",
                hint="Use chat rows, or rows of prompt and completion.",
                field="seeds",
            )
        for question, _ in self._examples:
            self._alike.is_new(question)

    def asks(self) -> Iterator[Ask]:
        for number in itertools.count():
            drawn = chance(f"{self._seed}", "shots", f"{number}")
            shown = drawn.sample(self._examples, min(_SHOTS, len(self._examples)))
            yield Ask(number, self._messages(shown), number)

    def _messages(self, shown: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
        examples = "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in shown)
        task = (
            f"Below are examples of questions with answers. Write {self._pairs} new ones of the same kind, style and "
            f"language, about other things.\n{_FORMAT}"
        )
        more = f"\n{self._instructions}" if self._instructions else ""
        return (Message(role="user", content=f"{task}{more}\n\n{examples}"),)

    def proposals(self, ask: Ask, text: str) -> list[Proposal]:
        return [Proposal(question, answer) for question, answer in pairs_in(text)]

    def fault_of(self, proposal: Proposal, ask: Ask) -> str:
        return "" if self._alike.is_new(proposal.question) else "almost the same question again"


# --- reading answers


def pairs_in(text: str) -> list[tuple[str, str]]:
    """Questions with answers, from lines that say so or from JSON, with or without a fence around it."""
    found = _json_pairs(text) or [(match["question"], match["answer"]) for match in _PAIR.finditer(text)]
    clean = [(question.strip().strip("*").strip(), answer.strip().strip("*").strip()) for question, answer in found]
    return [pair for pair in clean if all(pair)]


def _json_pairs(text: str) -> list[tuple[str, str]]:
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return []
    try:
        items = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return []
    pairs = []
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            keys = {str(key).lower(): value for key, value in item.items()}
            question = keys.get("question", keys.get("instruction", keys.get("prompt")))
            answer = keys.get("answer", keys.get("output", keys.get("response")))
            if isinstance(question, str) and isinstance(answer, str):
                pairs.append((question, answer))
    return pairs


def _some(items: Iterable[Any], drawn: random.Random) -> list[Any]:
    """All, or a fair choice of so many as memory should hold (reservoir sampling, Vitter's algorithm R)."""
    kept: list[Any] = []
    for count, item in enumerate(items):
        if count < _MOST_KEPT:
            kept.append(item)
        elif (place := drawn.randrange(count + 1)) < _MOST_KEPT:
            kept[place] = item
    return kept
