"""Interviews: a question on a line that begins with Q:, its answer on the next one that begins with A:."""

from collections.abc import Iterator

from datasets_app.reading import BadLine, Guess, Head, Record, Source

name = "interviews"
label = "Interviews"
suffixes = (".interview",)


def detect(head: Head) -> Guess | None:
    lines = [line for line in head.lines if line.strip()]
    if lines and all(line.startswith(("Q:", "A:")) for line in lines):
        return Guess(0.95, "every line begins with Q: or A:")
    return None


def read(source: Source) -> Iterator[Record | BadLine]:
    question: tuple[int, str] | None = None
    for line in source.lines():
        if isinstance(line, BadLine):
            yield line
            continue
        number, text = line
        if text.startswith("Q:"):
            if question:
                yield BadLine(question[0], "this question has no answer.")
            question = number, text[2:].strip()
        elif text.startswith("A:") and question:
            yield Record(question[0], {"prompt": question[1], "completion": text[2:].strip()})
            question = None
        elif text.strip():
            yield BadLine(number, "it is neither a question (Q:) nor the answer to one (A:).")
    if question:
        yield BadLine(question[0], "this question has no answer.")
