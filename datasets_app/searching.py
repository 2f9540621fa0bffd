"""Looking for rows in stored versions with DuckDB, in a process of its own: `python -m datasets_app.searching`. Pure.

One JSON request a line comes in, one JSON answer a line goes out (`finder` is the other end). The process ends when
its input does, or when nobody has asked for a minute. It reads columns of `rows.parquet` only, with 2 threads and at
most 400 MB; what does not fit goes to a temporary folder.

Measured on 1,000,000 rows of two turns (117 MB) on 2 CPU cores: see `templates/docs/data.md`.
"""

import json
import re
import select
import sys
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from datasets_app.near import NearDuplicates
from datasets_app.storage import FILE, entries
from project.contracts.runs import UserError

IDLE = 60.0  # seconds
MOST_SCRATCH = "8GB"  # on the disk, for one query that does not fit
MEMORY = "400MB"
COMPARED = 200_000  # learned rows, and a quarter of that held-out ones, that are compared by likeness: 60 MB
SORTS = ("number", "characters", "learned_characters", "turns")

# row kind -> where its texts are in the canonical JSON
_TEXTS = {
    "chat": ("$.messages[*].content",),
    "completion": ("$.prompt", "$.completion"),
    "preference": ("$.prompt[*].content", "$.chosen[*].content", "$.rejected[*].content"),
    "unpaired": ("$.prompt[*].content", "$.completion[*].content"),
    "prompt": ("$.prompt[*].content",),
    "text": ("$.text",),
}


@dataclass(frozen=True)
class Query:
    """Which rows, in which order. `search` is looked for in the texts and `answer_has` in the answer, in any case."""

    search: str = ""
    answer: str | None = None
    answer_has: str = ""
    least_characters: int | None = None
    most_characters: int | None = None
    least_learned: int | None = None
    most_learned: int | None = None
    least_turns: int | None = None
    most_turns: int | None = None
    synthetic: bool | None = None
    sort: str = "number"
    descending: bool = False

    @property
    def is_everything(self) -> bool:
        """All rows in their order?"""
        return self == Query()

    @property
    def needs_columns(self) -> bool:
        """Does it ask for more than files of before the stored columns have?"""
        return self != Query(search=self.search, descending=self.descending)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Query":
        return cls(**{field.name: value[field.name] for field in fields(cls) if field.name in value})


class Search:
    """One connection, and the difference that was asked for last."""

    def __init__(self, scratch: str) -> None:
        import duckdb

        self._connection = duckdb.connect(
            config={
                "threads": 2,
                "memory_limit": MEMORY,
                "temp_directory": scratch,
                "max_temp_directory_size": MOST_SCRATCH,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        self._diff: tuple[str, str] | None = None
        self._counts: dict[tuple[str, Query], int] = {}  # files never change

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What is asked for by `do`: find, diff, leakage or similar. Raises UserError."""
        match request["do"]:
            case "find":
                query = Query.from_json(request["query"])
                return self.find(Version(Path(request["folder"])), query, request["offset"], request["limit"])
            case "diff":
                old, new = Version(Path(request["folder"])), Version(Path(request["to"]))
                return self.diff(old, new, request["show"], request["offset"], request["limit"])
            case "leakage":
                old, new = Version(Path(request["folder"])), Version(Path(request["to"]))
                return self.leakage(old, new, request["offset"], request["limit"])
            case "similar":
                return similar(Path(request["folder"]), Path(request["to"]), request["offset"], request["limit"])
        raise UserError(f"Nothing is known about '{request['do']}'.")

    def _all(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return list(self._connection.execute(sql, values or []).fetchall())

    # --- one version

    def find(self, version: "Version", query: Query, offset: int, limit: int) -> dict[str, Any]:
        """{numbers, count}: the numbers of the rows, and how many there are.

        With a `search`, `count` is null while there may be more: the search stops at the first `limit` hits.
        """
        if query.needs_columns and not version.has_columns:
            raise UserError(
                "This version was stored before rows could be filtered and sorted. Searching works.",
                hint="Prepare or import it again.",
            )
        where, values = _where(version, query)
        order = f"{query.sort} {'desc' if query.descending else ''}, number"
        # A scan is in the order of the rows already; without ORDER BY it stops at the last hit that is needed.
        ordered = f"order by {order}" if query.sort != "number" or query.descending else ""
        sql = f"select number from {version.table} {where} {ordered} limit ? offset ?"  # noqa: S608
        numbers = [number for (number,) in self._all(sql, [*values, limit + 1, offset])]
        return {"numbers": numbers[:limit], "count": self._count(version, query, offset, limit, len(numbers))}

    def _count(self, version: "Version", query: Query, offset: int, limit: int, found: int) -> int | None:
        if (found and found <= limit) or not (found or offset):
            return offset + found
        if query.search:
            return None
        key = (str(version.file), replace(query, sort="number", descending=False))
        if key not in self._counts:
            where, values = _where(version, query)
            self._counts[key] = int(self._all(f"select count(*) from {version.table} {where}", values)[0][0])  # noqa: S608
        return self._counts[key]

    # --- two versions

    def diff(self, old: "Version", new: "Version", show: str, offset: int, limit: int) -> dict[str, Any]:
        """Counts of `added`, `removed`, `changed` and `same` rows, and [old number, new number] of those to `show`.

        A row is compared by its hash and counted as often as it occurs. A removed and an added row that ask the same
        are one changed row. Moving rows changes nothing.
        """
        if self._diff != (str(old.file), str(new.file)):
            self._diff = None
            self._compare(old, new)
            self._diff = (str(old.file), str(new.file))
        counts = dict(self._all("select what, count(*) from differences group by what"))
        total = int(self._all(f"select count(*) from {old.table}")[0][0])  # noqa: S608
        gone = counts.get("removed", 0) + counts.get("changed", 0)
        pairs = self._all(
            "select old, new from differences where what = ? order by coalesce(new, old) limit ? offset ?",
            [show, limit, offset],
        )
        return {
            "counts": {**{what: counts.get(what, 0) for what in ("added", "removed", "changed")}, "same": total - gone},
            "rows": [list(pair) for pair in pairs],
        }

    def _compare(self, old: "Version", new: "Version") -> None:
        for name, version in (("old_rows", old), ("new_rows", new)):
            key = "given_key" if version.has_columns else "hash(hash)"
            self._connection.execute(
                f"create or replace temp table {name} as select number, {key} as asked, hash(hash) as content, "  # noqa: S608
                f"row_number() over (partition by hash(hash) order by number) as nth from {version.table}"
            )
        for name, one, other in (("removed", "old_rows", "new_rows"), ("added", "new_rows", "old_rows")):
            self._connection.execute(
                f"create or replace temp table {name} as select number, asked, "  # noqa: S608
                f"row_number() over (partition by asked order by number) as nth "
                f"from {one} anti join {other} using (content, nth)"
            )
        self._connection.execute(
            "create or replace temp table differences as select "
            "case when o.number is null then 'added' when n.number is null then 'removed' else 'changed' end as what, "
            "o.number as old, n.number as new "
            "from removed o full outer join added n on o.asked = n.asked and o.nth = n.nth"
        )
        for name in ("old_rows", "new_rows", "removed", "added"):
            self._connection.execute(f"drop table {name}")

    def leakage(self, learned: "Version", held_out: "Version", offset: int, limit: int) -> dict[str, Any]:
        """How many rows of `held_out` are in `learned`: `same`, or ask the `same_question`; [learned, held out] of all.

        Capitals and blanks of a question make no difference.
        """
        if not (learned.has_columns and held_out.has_columns):
            raise UserError(
                "A version was stored before rows could be compared by what they ask.",
                hint="Prepare or import it again.",
            )
        self._connection.execute(
            f"create or replace temp table leaks as select h.number as held_out, l.number as learned, "  # noqa: S608
            f"h.content = l.content as same from (select number, given_key, hash as content from {held_out.table}) h "
            f"join (select given_key, min(number) as number, any_value(hash order by number) as content "
            f"from {learned.table} group by given_key) l using (given_key)"
        )
        same, question = self._all("select count(*) filter (where same), count(*) filter (where not same) from leaks")[
            0
        ]
        pairs = self._all("select learned, held_out from leaks order by held_out limit ? offset ?", [limit, offset])
        self._connection.execute("drop table leaks")
        return {"same": same, "same_question": question, "rows": [list(pair) for pair in pairs]}


def similar(learned: Path, held_out: Path, offset: int, limit: int) -> dict[str, Any]:
    """Which of the first rows of `held_out` ask almost the same as one of `learned`: {near, rows, compared}.

    `near` counts them, `rows` are [learned number, held-out number], `compared` says how many rows of both were.
    Questions that are the same but for capitals and blanks are left to `leakage`.
    """
    texts, keys, counts = NearDuplicates(), [], []
    # Learned rows come first, so that every held-out one is paired with the first of them that it resembles.
    for folder, most in ((learned, COMPARED), (held_out, COMPARED // 4)):
        counts.append(0)
        for entry in islice(entries(folder), most):
            counts[-1] += 1
            keys.append(entry.given_key)
            texts.add(" ".join(part.text for part in entry.texts if not part.learned) or entry.texts[0].text)
    first = counts[0]
    found = [
        [earlier + 1, later - first + 1]
        for later, earlier, _ in texts.repeats()
        if later >= first > earlier and keys[later] != keys[earlier]
    ]
    return {"near": len(found), "rows": found[offset : offset + limit], "compared": counts}


class Version:
    """The stored file of a version, as DuckDB names it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    @cached_property
    def _columns(self) -> list[str]:
        import pyarrow.parquet as pq

        return list(pq.read_schema(self.file).names)

    @property
    def has_columns(self) -> bool:
        return "given_key" in self._columns

    @property
    def table(self) -> str:
        file = str(self.file).replace("'", "''")
        if self.has_columns:
            return f"read_parquet('{file}')"
        return f"(select *, file_row_number + 1 as number from read_parquet('{file}', file_row_number = true))"  # noqa: S608

    @cached_property
    def kind(self) -> str:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as file:
            first = next(file.iter_batches(1, columns=["row"])).column(0)[0].as_py()
        return str(json.loads(first)["kind"])


def _where(version: Version, query: Query) -> tuple[str, list[Any]]:
    """(WHERE …, its values)"""
    parts: list[tuple[str, list[Any]]] = []
    for column, least, most in (
        ("characters", query.least_characters, query.most_characters),
        ("learned_characters", query.least_learned, query.most_learned),
        ("turns", query.least_turns, query.most_turns),
    ):
        parts += [(f"{column} >= ?", [least])] if least is not None else []
        parts += [(f"{column} <= ?", [most])] if most is not None else []
    if query.answer is not None:
        parts.append(("answer = ?", [query.answer]))
    if query.answer_has:
        parts.append(("regexp_matches(answer, ?, 'i')", [re.escape(query.answer_has)]))
    if query.synthetic is not None:
        parts.append(("synthetic = ?", [query.synthetic]))
    if query.search:
        parts.append(_has_text(version, query.search))
    if not parts:
        return "", []
    return "where " + " and ".join(sql for sql, _ in parts), [value for _, values in parts for value in values]


def _has_text(version: Version, text: str) -> tuple[str, list[Any]]:
    """Rows that may have it by their JSON, and among them those that have it in a text and not in a key."""
    written = json.dumps(text, ensure_ascii=False)[1:-1]
    # A path with [*] gives a list of texts, one without gives a text.
    texts = (
        f"array_to_string({found}, chr(10))" if "*" in found else found
        for found in (f"json_extract_string(row, '{path}')" for path in _TEXTS[version.kind])
    )
    return (
        f"(regexp_matches(row, ?, 'i') and regexp_matches(concat_ws(chr(10), {', '.join(texts)}), ?, 'i'))",
        [re.escape(written), re.escape(text)],
    )


def serve(scratch: str) -> None:
    """Answer until the input ends or nobody asks for a minute. `scratch` is a folder for what memory does not hold."""
    search = Search(scratch)
    while select.select([sys.stdin], [], [], IDLE)[0] and (line := sys.stdin.readline()):
        try:
            reply = search.answer(json.loads(line))
        except UserError as error:
            reply = {"refused": f"{error} {error.hint}".strip()}
        except Exception as error:  # the next question is another one; this one's asker is told
            reply = {"failed": f"{type(error).__name__}: {error}"[:500]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
