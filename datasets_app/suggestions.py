"""The few changes to a version that are most likely to help the model trained on it. Pure.

They are derived from what is known already: the stored report (findings and figures), whether something is held out,
and what of that the version has too. A suggestion says what to do, by which numbers, why it matters to the model, what
remains afterwards, and the preparation steps that do it; none where only a person can.

**The order**: what blocks training, then what makes a model learn something wrong or a measurement lie (`WRONG`), then
what makes it weaker (`WEAK`), then the rest (`POLISH`); within each by `score`: severity × share of the rows × impact.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from project.contracts.rows import RowKind

MOST = 5
FEW_ROWS = 100  # fewer are soon learned by heart
MUCH_TEXT = 100_000  # characters
LEAST_TO_SPLIT = 50  # rows: a tenth of fewer measures nothing
UNEVEN = 20  # times as many rows as the rarest label
FAR = 3  # times as long as the other answer of a pair
LEAST_KEPT = 0.5  # of the rows: no step is offered that leaves fewer, a person decides that
BLOCKING, WRONG, WEAK, POLISH = range(4)

_SEVERITY = {"error": 3.0, "warning": 2.0, "info": 1.0}

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Suggestion:
    """One change. `rows` of all rows are concerned, `share` from 0 to 1; `figure` is where in the report they are.

    `url` leads to where a person can do what no step does; empty for none.
    """

    name: str
    title: str
    evidence: str
    rows: int
    share: float
    figure: str
    why: str
    effect: str
    steps: tuple[Json, ...] = ()
    group: int = WEAK
    severity: str = "warning"
    impact: float = 0.5  # from 0 to 1
    url: str = ""
    url_words: str = ""

    @property
    def score(self) -> float:
        """Severity × share of the rows × impact, from 0 to 3: what comes first within a group."""
        return _SEVERITY[self.severity] * self.share * self.impact


@dataclass(frozen=True)
class Leakage:
    """Rows of the held-out version `reference` that this one has too: the same row, or only the same question."""

    reference: str
    same: int
    same_question: int


@dataclass(frozen=True)
class Facts:
    """What suggestions are made from. `is_held_out`: models are measured on this version, not trained on it."""

    report: Json
    rows: int
    row_kind: str
    is_held_out: bool = False
    has_held_out: bool = False
    leakage: tuple[Leakage, ...] = ()
    more: tuple[Suggestion, ...] = field(default=())  # what other apps know


def suggest(facts: Facts) -> list[Suggestion]:
    """At most MOST suggestions, the most helpful first."""
    found = [*_of_findings(facts), *_of_figures(facts)]
    said = {one.name for one in found}, [one.steps for one in found if one.steps]
    found += [one for one in facts.more if one.name not in said[0] and one.steps not in said[1]]
    return in_order(found)[:MOST]


def in_order(found: Iterable[Suggestion]) -> list[Suggestion]:
    """By group, then by score; equals by name, so that the order is always the same."""
    return sorted(found, key=lambda one: (one.group, -one.score, one.name))


_ORDER = {name: place for place, name in enumerate((
    "system_prompt", "truncate", "transform", "redact", "filter", "drop_duplicates", "near_duplicates", "without",
    "balance", "split",
))}  # fmt: skip


def together(lists: Iterable[Iterable[Json]]) -> list[dict[str, Any]]:
    """Several lists of steps as one, each step once: texts change before rows are compared, and splitting is last.

    Of two splits the first, of two ways to redact the wider one is kept; equal rows have equal prompts, so what drops
    the latter drops the former too.
    """
    steps: list[dict[str, Any]] = []
    for listed in lists:
        steps += [dict(step) for step in listed if step not in steps]
    if {"type": "redact"} in steps:
        steps = [step for step in steps if step["type"] != "redact" or step == {"type": "redact"}]
    if any(step["type"] == "drop_duplicates" and step.get("by") == "prompt" for step in steps):
        steps = [step for step in steps if step != {"type": "drop_duplicates"}]
    splits = [step for step in steps if step["type"] == "split"]
    steps = [step for step in steps if step not in splits[1:]]
    return sorted(steps, key=lambda step: _ORDER.get(step["type"], _ORDER["filter"]))


# --- from the findings of the checks


@dataclass(frozen=True)
class Rule:
    """What is known about one kind of finding. `loses` are words for what goes, or '' when rows change instead."""

    title: str
    why: str
    group: int = WEAK
    impact: float = 0.5
    loses: str = ""


RULES: dict[str, Rule] = {
    "empty_answers": Rule(
        "Drop the rows with empty answers", "The model learns to say nothing.", WRONG, 0.9, "at most"
    ),
    "no_answer": Rule(
        "Drop conversations without an assistant's turn",
        "There is nothing in them to learn, and training may stop at them.", WRONG, 0.9, "exactly",
    ),
    "contradictions": Rule(
        "Keep one answer of each question: the first",
        "Of two answers to one question the model learns a mixture, and it can't get both right when it is measured.",
        WRONG, 0.9, "at most",
    ),
    "same_answers": Rule(
        "Drop pairs whose answers are the same", "There is nothing to prefer in them.", WRONG, 0.8, "exactly"
    ),
    "nearly_same_answers": Rule(
        "Drop pairs whose answers differ in capitals and blanks only",
        "The model learns to prefer capitals or blanks.", WRONG, 0.6, "exactly",
    ),
    "one_label": Rule(
        "Add rows with other answers", "A model that saw one answer only gives it to everything.", WRONG, 1.0
    ),
    "credentials": Rule(
        "Replace keys and tokens", "A model can give away what it learned to whoever asks.", WRONG, 1.0
    ),
    "personal_data": Rule(
        "Replace personal data", "A model can repeat what it learned to whoever asks.", WRONG, 0.6
    ),
    "tool_calls": Rule(
        "Correct the calls of tools", "The model learns to call tools in a way that no program can carry out.",
        WRONG, 0.8,
    ),
    "length_bias": Rule(
        "Drop pairs in which the better answer is by far the {which} one",
        "Length is easier to learn than quality: the model becomes {which_word} instead of better.", WRONG, 0.7,
    ),
    "empty_prompts": Rule(
        "Drop the rows with empty prompts", "The model learns to give these answers to nothing.", WEAK, 0.6, "at most"
    ),
    "duplicates": Rule(
        "Keep one of each repeated row",
        "A repeated row counts as often as it occurs, and is sooner learned by heart than understood.",
        WEAK, 0.6, "exactly",
    ),
    "near_duplicates": Rule(
        "Keep one of rows that are almost the same",
        "They weigh more than they teach, and on both sides of a split they make a score look better than it is.",
        WEAK, 0.5, "about",
    ),
    "spellings": Rule(
        "Write each label in one way",
        "Two spellings are two answers to the model, and one of them counts as a mistake.", WEAK, 0.7,
    ),
    "uneven_labels": Rule(
        "Take fewer rows of the frequent labels", "A model prefers what it saw most.", WEAK, 0.5
    ),
    "rare_labels": Rule(
        "Add rows of the rare labels", "What was seen fewer than five times is hardly learned.", WEAK, 0.5
    ),
    "roles": Rule(
        "Put the turns in the order that chat templates expect",
        "Many templates refuse such conversations; then training stops.", WEAK, 0.6,
    ),
    "broken_characters": Rule(
        "Export the texts again as UTF-8", "The model learns to write the broken characters.", WEAK, 0.7
    ),
    "hidden_characters": Rule(
        "Remove characters that nobody sees", "To a tokenizer, a word with one inside is another word.", POLISH, 0.5
    ),
    "lengths": Rule(
        "Drop the longest outliers", "They are cut, or make every batch they are in slow.", POLISH, 0.5, "about"
    ),
    "bad_lines": Rule(
        "Correct the lines that could not be read", "What is left out is not learned.", POLISH, 0.5
    ),
    "numbers_as_text": Rule(
        "Write words instead of numbers, if they stand for something",
        "A base model knows what words mean; a number it has to learn from nothing.", POLISH, 0.4,
    ),
    "left_out": Rule(
        "Write what is left out into the content, if it is to be learned",
        "The model never sees it.", POLISH, 0.3,
    ),
}  # fmt: skip


def kind_of(finding: Json, figures: Json) -> str:
    """Which of the RULES a finding falls under: its check's name, where a check finds one thing only."""
    check = str(finding["check"])
    conditions = " ".join(str(step.get("condition", "")) for step in finding.get("fix", ()))
    labels = figures.get("labels", {})
    match check:
        case "empty_fields":
            return "empty_answers" if "answer" in conditions else "empty_prompts"
        case "roles" if "assistant" in conditions:
            return "no_answer"
        case "preferences" if conditions:
            return "nearly_same_answers" if "lower" in conditions else "same_answers"
        case "preferences":
            return "length_bias"
        case "characters":
            return "hidden_characters" if finding.get("fix") else "broken_characters"
        case "labels" if finding["severity"] == "error":
            return "one_label"
        case "labels" if finding.get("fix"):
            return "spellings"
        case "labels":
            return "uneven_labels" if finding["count"] == labels.get("most") else "rare_labels"
        case _:
            return check


def _of_findings(facts: Facts) -> Iterator[Suggestion]:
    """One for each kind of finding; of several of one kind the first, which is the worst."""
    figures = facts.report.get("figures", {})
    seen: set[str] = set()
    for finding in facts.report.get("findings", ()):
        kind = kind_of(finding, figures)
        if kind in seen:
            continue
        seen.add(kind)
        yield _SPECIAL.get(kind, _plain)(kind, finding, facts)


def _plain(kind: str, finding: Json, facts: Facts) -> Suggestion:
    """What a check proposes, with what is known about that kind of finding."""
    rule = RULES.get(kind) or Rule(f"Look at what the check '{kind}' found", str(finding.get("advice", "")), POLISH)
    rows = min(int(finding["count"]), facts.rows)
    steps = tuple(finding.get("fix", ()))
    share = f"{finding['title']}: {_part(rows, facts.rows)}."
    return Suggestion(
        name=kind,
        title=rule.title,
        evidence=f"{finding['title']}." if kind == "bad_lines" else share,  # those are no rows
        rows=rows,
        share=rows / facts.rows if facts.rows else 0.0,
        figure=f"findings.{finding['check']}",
        why=rule.why,
        effect=_effect(rule, rows, facts.rows, steps),
        steps=steps,
        group=BLOCKING if finding["severity"] == "error" else rule.group,
        severity=str(finding["severity"]),
        impact=rule.impact,
    )


def _effect(rule: Rule, rows: int, of: int, steps: Sequence[Json]) -> str:
    if not steps:
        return "Only a person can do that."
    if rule.loses:
        left = f"{max(of - rows, 0):,} of {of:,} rows remain."
        return left if rule.loses == "exactly" else f"{rule.loses.capitalize()} {left}"
    return f"All {of:,} rows remain; {rows:,} of them {'changes' if rows == 1 else 'change'}."


def _part(rows: int, of: int) -> str:
    return f"{_percent(rows / of if of else 0)} of {of:,} rows"


def _percent(share: float) -> str:
    """0.0312 -> '3.1 %'; what is more than nothing never reads as 0."""
    return "less than 0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %").replace(".0 ", " ")


# --- from findings whose step depends on figures


def _rare_labels(kind: str, finding: Json, facts: Facts) -> Suggestion:
    """Its count is one of labels, not of rows: at most four rows each."""
    plain = _plain(kind, finding, facts)
    rows = min(4 * int(finding["count"]), facts.rows)
    share = rows / facts.rows if facts.rows else 0.0
    evidence = f"{finding['title']}: at most {_part(rows, facts.rows)}."
    return replace(plain, rows=rows, share=share, evidence=evidence, figure="figures.labels")


def _spellings(kind: str, finding: Json, facts: Facts) -> Suggestion:
    """Its count is one of labels too. How many rows change is seen in the preview."""
    plain = _plain(kind, finding, facts)
    different = max(int(facts.report.get("figures", {}).get("labels", {}).get("different", 1)), 1)
    share = min(int(finding["count"]) / different, 1.0)
    return replace(
        plain,
        evidence=f"{finding['title']}, of {different:,} different ones.",
        rows=round(share * facts.rows),
        share=share,
        figure="figures.labels",
        effect=f"All {facts.rows:,} rows remain; labels that differ in capitals and blanks only become one.",
    )


def _uneven_labels(kind: str, finding: Json, facts: Facts) -> Suggestion:
    """A step that keeps so many rows of each label, where it leaves at least half of all."""
    labels = facts.report["figures"]["labels"]
    counts = sorted(int(shown["rows"]) for shown in labels["shown"])
    most = max(10 * int(labels["least"]), counts[len(counts) // 2], 50)
    gone = sum(max(count - most, 0) for count in counts)
    left = facts.rows - gone
    plain = _plain(kind, finding, facts)
    share = (facts.rows - int(labels["least"]) * int(labels["different"])) / facts.rows
    evidence = f"{finding['title']}; there are {labels['different']:,} labels in {facts.rows:,} rows."
    plain = replace(plain, figure="figures.labels", share=max(share, 0.0), evidence=evidence)
    if not gone or left < LEAST_KEPT * facts.rows:
        effect = "Taking rows away would cost too many of them. Only a person can add some."
        return replace(plain, title="Add rows of the rare labels", effect=effect)
    unsure = "At most " if labels.get("others") and counts[0] > most else ""
    return replace(
        plain,
        steps=({"type": "balance", "rows": most},),
        effect=f"{unsure}{left:,} of {facts.rows:,} rows remain, at most {most:,} of each label.",
    )


def _length_bias(kind: str, finding: Json, facts: Facts) -> Suggestion:
    pairs = facts.report["figures"]["preferences"]
    longer = pairs["chosen_longer"] > pairs["rejected_longer"]
    which, far, near = ("longer", "chosen", "rejected") if longer else ("shorter", "rejected", "chosen")
    rule, plain = RULES[kind], _plain(kind, finding, facts)
    means = {side: pairs[f"{side}_characters_mean"] for side in ("chosen", "rejected")}
    plain = replace(
        plain,
        title=rule.title.format(which=which),
        why=rule.why.format(which_word="long-winded" if longer else "curt"),
        evidence=f"{finding['title']}: {means['chosen']:,.0f} characters on average against {means['rejected']:,.0f}.",
        figure="figures.preferences",
    )
    if means[far] > FAR * means[near]:  # most pairs would go
        title = f"Add pairs in which the {'shorter' if longer else 'longer'} answer is the better one"
        return replace(plain, title=title, effect="Most pairs are like that. Only a person can add others.")
    return replace(
        plain,
        steps=({"type": "filter", "condition": f"length({far}) <= {FAR} * length({near})"},),
        effect=f"Pairs go whose {far} answer is more than {FAR} times as long as the other; the preparation counts "
        "them. Pairs in which the other one is better help more.",
    )


_SPECIAL: dict[str, Callable[[str, Json, Facts], Suggestion]] = {
    "rare_labels": _rare_labels,
    "spellings": _spellings,
    "uneven_labels": _uneven_labels,
    "length_bias": _length_bias,
}


# --- from figures and what is known beside the report


def _of_figures(facts: Facts) -> Iterator[Suggestion]:
    if facts.is_held_out:
        return
    for leakage in facts.leakage:
        if leakage.same or leakage.same_question:
            yield _leakage(leakage, facts)
    if facts.rows < FEW_ROWS and not _is_long_text(facts):
        yield _few_rows(facts)
    if facts.rows >= LEAST_TO_SPLIT and not facts.has_held_out:
        yield _nothing_held_out(facts)


def _leakage(leakage: Leakage, facts: Facts) -> Suggestion:
    """`same` and `same_question` count rows that are held out; as many or more of this version go."""
    rows = leakage.same + leakage.same_question
    found = [f"{leakage.same:,} are here too"] if leakage.same else []
    found += [f"{leakage.same_question:,} are asked here with another answer"] if leakage.same_question else []
    return Suggestion(
        name="leakage",
        title=f"Drop what {leakage.reference} asks too",
        evidence=f"Of the rows of {leakage.reference}, {' and '.join(found)}.",
        rows=min(rows, facts.rows),
        share=min(rows / facts.rows, 1.0),
        figure="leakage",
        why="The model is measured on what it has learned by heart: its score says nothing about new questions.",
        effect=f"At most {max(facts.rows - rows, 0):,} of {facts.rows:,} rows remain.",
        steps=({"type": "without", "data": leakage.reference},),
        group=BLOCKING,  # no score is worth anything before this is done
        severity="error",
        impact=1.0,
    )


def _is_long_text(facts: Facts) -> bool:
    """Few rows of plain text can be a lot to learn from."""
    lengths = facts.report.get("figures", {}).get("lengths", {})
    return facts.row_kind == RowKind.TEXT and lengths.get("rows", {}).get("total", 0) >= MUCH_TEXT


def _few_rows(facts: Facts) -> Suggestion:
    tenth = max(facts.rows // 10, 1)
    unsure = min(round(98 / tenth**0.5), 100)  # half of a 95 % interval at a score of one half, in points
    return Suggestion(
        name="few_rows",
        title="Add more rows",
        evidence=f"There are {facts.rows:,} rows, fewer than {FEW_ROWS}.",
        rows=facts.rows,
        share=1.0,
        figure="summary.rows",
        why=f"So few are soon learned by heart. A tenth of them held out gives a score that can be off by {unsure} "
        "points.",
        effect="Only a person can do that, or a model that writes rows like these, which a person should read.",
        group=WEAK,
        impact=0.9,
    )


def _nothing_held_out(facts: Facts) -> Suggestion:
    labels = facts.report.get("figures", {}).get("labels")
    # The step takes answers for labels: thumbs are no answers.
    has_labels = labels and labels.get("different", 0) > 1 and facts.row_kind != RowKind.UNPAIRED
    by = "stratified" if has_labels else "random"
    out = round(facts.rows * 0.1)
    every = ", each with every label's share" if by == "stratified" else ""
    return Suggestion(
        name="nothing_held_out",
        title="Hold out a tenth of the rows to measure on",
        evidence=f"Of these {facts.rows:,} rows none are held out.",
        rows=facts.rows,
        share=1.0,
        figure="summary.rows",
        why="Only rows that no model has learned tell whether one is better than another. Training can keep some back "
        "for itself; a part of its own is the same for all models.",
        effect=f"About {facts.rows - out:,} rows to learn from and {out:,} to measure on{every}.",
        steps=({"type": "split", "parts": {"train": 0.9, "test": 0.1}, "by": by},),
        group=WEAK,
        impact=0.4,
    )
