"""What happened in each arm of a test. Counts only: what they prove is a question for statistics, which come later.

The unit is the assigned user, as the gateway hashed them. A unit counts once, in the arm that answered it, however many
answers it got. A unit that somehow was answered by two arms tells us nothing about either: it is left out everywhere
and reported.
"""

from dataclasses import asdict, dataclass
from typing import Any

from django.db import connection

from abtests.models import ABTest, Answer, Feedback, Variant


@dataclass(frozen=True)
class ArmCount:
    """One variant in numbers. Shares are 0 to 1, times in milliseconds; a mean of nothing is None.

    `mean_rating` and `up_share` let every unit speak once: the mean over units of each unit's own mean. Latency is that
    of answers without an error; percentiles are by nearest rank.
    """

    key: str
    version_id: str
    version: str
    weight: int
    wanted_share: float
    units: int
    unit_share: float | None
    answers: int
    errors: int
    feedback: int
    units_with_feedback: int
    ratings: int
    mean_rating: float | None
    thumbs: int
    thumbs_up: int
    up_share: float | None
    latency_mean_ms: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    prompt_tokens: int
    completion_tokens: int

    @property
    def error_share(self) -> float | None:
        return self.errors / self.answers if self.answers else None

    @property
    def tokens_per_answer(self) -> float | None:
        return self.completion_tokens / self.answers if self.answers else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error_share": self.error_share}


@dataclass(frozen=True)
class LeftOut:
    """What no arm counts: units that met two arms, answers without a unit, answers of an arm the test does not have."""

    crossover_units: int = 0
    crossover_answers: int = 0
    answers_without_unit: int = 0
    answers_of_unknown_arm: int = 0

    def __bool__(self) -> bool:
        return any(asdict(self).values())


@dataclass(frozen=True)
class Results:
    arms: list[ArmCount]
    left_out: LeftOut

    @property
    def units(self) -> int:
        return sum(arm.units for arm in self.arms)

    @property
    def answers(self) -> int:
        return sum(arm.answers for arm in self.arms)

    @property
    def feedback(self) -> int:
        return sum(arm.feedback for arm in self.arms)

    def as_dict(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "answers": self.answers,
            "feedback": self.feedback,
            "arms": [arm.as_dict() for arm in self.arms],
            "left_out": asdict(self.left_out),
        }


# One row per unit first, then one row per arm. MIN(arm) is the unit's only arm where arms = 1.
_UNITS = """
WITH exposed AS (
    SELECT id, arm, unit_hash, error, latency_ms, prompt_tokens, completion_tokens
    FROM {answer} WHERE test_id = %(test)s AND unit_hash <> '' AND arm IN ({arms})
), units AS (
    SELECT unit_hash, MIN(arm) AS arm, COUNT(DISTINCT arm) AS arms, COUNT(*) AS answers,
        SUM(CASE WHEN error <> '' THEN 1 ELSE 0 END) AS errors,
        SUM(CASE WHEN error = '' THEN latency_ms ELSE 0 END) AS latency,
        SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens
    FROM exposed GROUP BY unit_hash
)"""

_COUNTS = """{units}, votes AS (
    SELECT exposed.unit_hash, COUNT(*) AS feedback, COUNT(rating) AS ratings, AVG(rating * 1.0) AS rating,
        SUM(CASE WHEN thumb <> '' THEN 1 ELSE 0 END) AS thumbs,
        SUM(CASE WHEN thumb = 'up' THEN 1 ELSE 0 END) AS thumbs_up,
        AVG(CASE thumb WHEN 'up' THEN 1.0 WHEN 'down' THEN 0.0 END) AS up_share
    FROM {feedback} JOIN exposed ON exposed.id = {feedback}.answer_id GROUP BY exposed.unit_hash
)
SELECT CASE WHEN arms = 1 THEN arm ELSE '' END AS of_arm, COUNT(*), SUM(answers), SUM(errors), SUM(latency),
    SUM(prompt_tokens), SUM(completion_tokens), SUM(feedback), COUNT(feedback), SUM(ratings), AVG(rating),
    SUM(thumbs), SUM(thumbs_up), AVG(up_share)
FROM units LEFT JOIN votes ON votes.unit_hash = units.unit_hash GROUP BY of_arm
"""

_LATENCIES = """{units}, ranked AS (
    SELECT arm, latency_ms, ROW_NUMBER() OVER (PARTITION BY arm ORDER BY latency_ms) AS place,
        COUNT(*) OVER (PARTITION BY arm) AS n
    FROM exposed WHERE error = '' AND unit_hash NOT IN (SELECT unit_hash FROM units WHERE arms > 1)
)
SELECT arm, latency_ms FROM ranked
WHERE place = (n * 50 + 99) / 100 OR place = (n * 95 + 99) / 100 ORDER BY arm, place
"""

_STRAYS = """
SELECT SUM(CASE WHEN unit_hash = '' THEN 1 ELSE 0 END),
    SUM(CASE WHEN unit_hash <> '' AND arm NOT IN ({arms}) THEN 1 ELSE 0 END)
FROM {answer} WHERE test_id = %(test)s
"""


def count(test: ABTest) -> Results:
    """Count a test at this moment, in whatever state it is. Four queries, whatever the number of answers."""
    variants = list(test.variants.select_related("version__model"))
    counted = {row[0]: row[1:] for row in _ask(_COUNTS, test, variants)}
    percentiles: dict[str, list[float]] = {}
    for arm, latency in _ask(_LATENCIES, test, variants):
        percentiles.setdefault(arm, []).append(latency)
    [(without_unit, unknown_arm)] = _ask(_STRAYS, test, variants)
    crossed = counted.pop("", (0, 0))
    total_units = sum(row[0] for row in counted.values())
    total_weight = sum(variant.weight for variant in variants)
    return Results(
        arms=[
            _arm(
                variant,
                counted.get(variant.key, _NOTHING),
                percentiles.get(variant.key, []),
                total_units=total_units,
                total_weight=total_weight,
            )
            for variant in variants
        ],
        left_out=LeftOut(crossed[0], int(crossed[1]), without_unit or 0, unknown_arm or 0),
    )


_NOTHING = (0, 0, 0, 0, 0, 0, None, 0, None, None, None, None, None)


def _arm(
    variant: Variant, row: tuple[Any, ...], percentiles: list[float], *, total_units: int, total_weight: int
) -> ArmCount:
    units, answers, errors, latency, prompt, completion = (row[place] or 0 for place in range(6))
    feedback, with_feedback, ratings, rating, thumbs, thumbs_up, up_share = row[6:]
    good = int(answers) - int(errors)
    return ArmCount(
        key=variant.key,
        version_id=str(variant.version_id),
        version=str(variant.version),
        weight=variant.weight,
        wanted_share=variant.weight / total_weight,
        units=units,
        unit_share=units / total_units if total_units else None,
        answers=int(answers),
        errors=int(errors),
        feedback=int(feedback or 0),
        units_with_feedback=with_feedback,
        ratings=int(ratings or 0),
        mean_rating=None if rating is None else float(rating),
        thumbs=int(thumbs or 0),
        thumbs_up=int(thumbs_up or 0),
        up_share=None if up_share is None else float(up_share),
        latency_mean_ms=latency / good if good else None,
        latency_p50_ms=percentiles[0] if percentiles else None,
        latency_p95_ms=percentiles[-1] if percentiles else None,
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
    )


def _ask(sql: str, test: ABTest, variants: list[Variant]) -> list[tuple[Any, ...]]:
    """Fill in table names and placeholders; every value goes as a parameter."""
    keys = {f"arm{place}": variant.key for place, variant in enumerate(variants)}
    names = {
        "answer": Answer._meta.db_table,
        "feedback": Feedback._meta.db_table,
        "arms": ", ".join(f"%({name})s" for name in keys),
    }
    query = sql.format(units=_UNITS.format(**names), **names)
    with connection.cursor() as cursor:
        cursor.execute(query, {"test": ABTest._meta.pk.get_db_prep_value(test.pk, connection), **keys})
        return list(cursor.fetchall())
