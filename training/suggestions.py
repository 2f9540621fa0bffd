"""What a preflight says should be changed before anybody trains, in the shape of a version's suggestions."""

from collections.abc import Iterator
from urllib.parse import urlencode

from django.urls import reverse

from datasets_app.models import DatasetVersion
from datasets_app.suggestions import BLOCKING, LEAST_KEPT, WEAK, WRONG, Suggestion
from training.models import Preflight
from training.queries import preflights_with_all

LITTLE = 0.05  # of the tokens: less is learned from rarely
ROUND = 64  # tokens: lengths are given in such steps
MOST_TIMES = 4  # as long as asked for: longer rows take much more memory
SPARE = 0.9  # of the length that characters stand for on average, because some rows have shorter tokens
_SHARES = ("100", "99", "95", "90")  # of the rows, in percent
LEAST_PROMPT = 200  # characters: a shorter rest of a prompt says nothing


def of_version(version: DatasetVersion) -> list[Suggestion]:
    """Those of the newest preflight of these rows that has ended well."""
    ended = preflights_with_all().filter(data_version=version, views__isnull=False).order_by("-id")
    found = ended.first()
    return list(of(found, version)) if found else []


def of(preflight: Preflight, version: DatasetVersion | None = None) -> Iterator[Suggestion]:
    """What to change, by what it counted; nothing while it has no result. `version` saves reading its report again."""
    if preflight.views_id is None or not preflight.result.get("rows"):
        return
    found = _Reading(preflight, version or preflight.data_version)
    yield from found.refused()
    yield from found.nothing_to_learn()
    yield from found.longer()
    yield from found.shorter()
    yield from found.little_learned()


class _Reading:
    """The numbers of one preflight, and what follows from them."""

    def __init__(self, preflight: Preflight, version: DatasetVersion) -> None:
        self.preflight, self.version, self.result = preflight, version, preflight.result
        self.flags, self.rows = self.result["flags"], int(self.result["rows"])
        self.most = preflight.max_seq_length
        self.address = reverse("preflight", args=[preflight.pk])
        self.lost = sum(self.flags.get(flag, 0) for flag in ("answer_lost", "cut_answer", "too_long"))

    def suggestion(self, name: str, *, rows: int, evidence: str, **more: object) -> Suggestion:
        who = f"In the tokens of {self.preflight.base_version}: {evidence}"
        share = min(rows / self.rows, 1.0)
        figure = f"preflights/{self.preflight.pk}"
        return Suggestion(name=name, rows=rows, share=share, evidence=who, figure=figure, **more)  # type: ignore[arg-type]

    def of_all(self, rows: int) -> str:
        return f"{rows:,} of {self.rows:,} rows"

    def refused(self) -> Iterator[Suggestion]:
        if rows := self.flags.get("refused", 0):
            yield self.suggestion(
                "refused",
                rows=rows,
                title="Correct the rows that the chat template refuses",
                evidence=f"{self.of_all(rows)} can't be rendered.",
                why="Training stops at the first of them.",
                effect="Only a person can do that, or choose a model with another template.",
                group=BLOCKING,
                severity="error",
                impact=1.0,
                url=f"{self.address}?flag=refused#rows",
                url_words="Look at them",
            )

    def nothing_to_learn(self) -> Iterator[Suggestion]:
        """Rows without an answer. An answer that is a tool's call has no text, so there roles have to do."""
        if rows := self.flags.get("no_answer", 0):
            has_calls = "tool_calls" in self.version.report.get("figures", {})
            condition = '"assistant" in roles' if has_calls else 'strip(answer) != ""'
            yield self.suggestion(
                "no_answer",
                rows=rows,
                title="Drop the rows that have no answer to learn",
                evidence=f"{self.of_all(rows)} have none.",
                why="They take part in training and teach nothing.",
                effect=f"About {self.rows - rows:,} of {self.rows:,} rows remain.",
                steps=({"type": "filter", "condition": condition},),
                group=WRONG,
                impact=0.8,
            )

    def longer(self) -> Iterator[Suggestion]:
        """A length that keeps more, where the model has room for it."""
        length = self._better_length()
        if self.lost and length:
            asked = {"data": self.version.pk, "base": self.preflight.base_version_id, "max_seq_length": length}
            yield self.suggestion(
                "longer_rows",
                rows=self.lost,
                title=f"Train with a max_seq_length of {length:,}",
                evidence=f"{self.of_all(self.lost)} lose something that should be learned at {self.most:,} tokens; 99 "
                f"of 100 rows have at most {self.result['percentiles']['99']:,}.",
                why="An answer that is cut teaches the model to stop in the middle, or nothing at all.",
                effect=f"{self._fitting(length)} have at most so many. Longer rows take more memory and time.",
                group=WRONG,
                impact=0.9,
                url=f"{reverse('preflight-new')}?{urlencode(asked)}",
                url_words=f"Look again at {length:,}",
            )

    def _better_length(self) -> int:
        """What keeps every row whole, or 99, 95 or 90 of 100; 0 where that is no longer, or too long."""
        context = int(self.preflight.base_version.facts.get("context") or 0)
        most = min(MOST_TIMES * self.most, context) if context else MOST_TIMES * self.most
        for share in _SHARES:
            needed = int(self.result["percentiles"][share])
            if self.most < needed <= most:
                return min(-(-needed // ROUND) * ROUND, most)
        return 0

    def _fitting(self, length: int) -> str:
        share = next(share for share in _SHARES if length >= int(self.result["percentiles"][share]))
        return f"All {self.rows:,} rows" if share == "100" else f"{share} of 100 rows"

    def shorter(self) -> Iterator[Suggestion]:
        """Prompts that leave room for the answers, where prompts are what is long; else without the longest rows."""
        lengths = self.version.report.get("figures", {}).get("lengths", {})
        characters, tokens = lengths.get("rows", {}).get("total", 0), int(self.result["tokens"])
        if not (self.lost and characters and tokens):
            return
        room = int(SPARE * self.most * characters / tokens)  # characters that fit into a row
        answer = int(lengths["answers"]["percentiles"]["95"])
        left = room - answer
        evidence = (
            f"{self.of_all(self.lost)} are cut at {self.most:,} tokens, which is about {room:,} characters; 95 of "
            f"100 answers have at most {answer:,}."
        )
        if self.preflight.has_mask and left >= LEAST_PROMPT:
            yield self.suggestion(
                "shorter_prompts",
                rows=self.lost,
                title=f"Shorten prompts to {left:,} characters",
                evidence=evidence,
                why="Training cuts at the end, where the answer is. A shorter prompt keeps it.",
                effect=f"All {self.rows:,} rows remain; long messages lose their middle.",
                steps=({"type": "truncate", "characters": left, "part": "prompt", "cut": "middle", "mark": "…"},),
                group=WRONG,
                impact=0.7,
            )
            return
        few = self.rows - self.lost < LEAST_KEPT * self.rows
        yield self.suggestion(
            "long_rows",
            rows=self.lost,
            title="Make the rows shorter" if few else f"Drop rows of more than {room:,} characters",
            evidence=evidence,
            why="What is cut teaches the model to stop in the middle.",
            effect=f"Dropping them would leave about {self.rows - self.lost:,} rows. Only a person can shorten answers."
            if few
            else f"About {self.rows - self.lost:,} of {self.rows:,} rows remain.",
            steps=() if few else ({"type": "filter", "condition": f"length <= {room}"},),
            group=WRONG,
            impact=0.5,
            url=f"{self.address}#rows",
            url_words="Look at them",
        )

    def little_learned(self) -> Iterator[Suggestion]:
        share = self.preflight.learned_share
        if share is None or share >= LITTLE:
            return
        with_system = self.version.report.get("figures", {}).get("roles", {}).get("with_system", 0)
        has_prompt = 2 * with_system > self.rows
        yield self.suggestion(
            "little_learned",
            rows=self.rows,
            title="Give a shorter system prompt, or none" if has_prompt else "Ask more briefly",
            evidence=f"{share:.1%} of {self.result['kept']:,} tokens are learned.".replace("%", " %"),
            why="Every token is computed, and paid for; only those of the answers teach something.",
            effect=f"All {self.rows:,} rows remain. Remove the system prompt, or choose replace and write a shorter "
            "one: the same has to be sent when the model is used."
            if has_prompt
            else "Only a person can do that.",
            steps=({"type": "system_prompt", "mode": "remove"},) if has_prompt else (),
            group=WEAK,
            impact=0.3,
        )
