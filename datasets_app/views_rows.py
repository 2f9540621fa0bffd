"""Pages of one version: what the checks found, its rows, and what it has other than another version."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect

from datasets_app import downloads, extensions, finder, preview, suggesting
from datasets_app.actions import blocks, datasets
from datasets_app.corrections import Corrections
from datasets_app.exporting import formats_for
from datasets_app.models import DatasetVersion, VersionState
from datasets_app.queries import versions_with_all
from datasets_app.rowqueries import NUMBERS, read_query
from datasets_app.searching import Query
from datasets_app.storage import StoredRow
from datasets_app.suggestions import together
from project.jobs.models import Job
from project.kernel import access
from project.kernel.errors import Problem
from project.kernel.pages import WorkspacePage

FIRST = 3  # rows on the version's own page
SORTS = (
    ("number", "In their order"),
    ("-characters", "Longest first"),
    ("characters", "Shortest first"),
    ("-learned_characters", "Longest answer first"),
    ("learned_characters", "Shortest answer first"),
    ("-turns", "Most turns first"),
)
NUMBER_FIELDS = (
    ("least_characters", "Characters, at least"),
    ("most_characters", "Characters, at most"),
    ("least_learned", "Learned, at least"),
    ("most_learned", "Learned, at most"),
    ("least_turns", "Turns, at least"),
    ("most_turns", "Turns, at most"),
)
_OTHER_VERSIONS = 50


class AboutVersion(WorkspacePage):
    """What every page of a version needs."""

    def version(self, pk: UUID) -> DatasetVersion:
        found = DatasetVersion.objects.select_related("dataset", "artifact", "parent__dataset")
        return access.find(found, self.actor, pk=pk)

    def ready(self, pk: UUID) -> DatasetVersion:
        version = self.version(pk)
        datasets.require_ready(version)
        return version

    def show(self, template: str, version: DatasetVersion, *, tab: str, **context: Any) -> HttpResponse:
        common: dict[str, Any] = {"version": version, "dataset": version.dataset, "tab": tab, "section": "datasets"}
        return self.render(template, exports=formats_for(version.row_kind), **common, **context)


class VersionPage(AboutVersion):
    """One version: may it be trained on, what the checks found, how it looks, where it comes from."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self.version(pk)
        job = Job.objects.filter(pk=version.job_id).first() if version.job_id else None
        context: dict[str, Any] = {}
        if version.is_ready:
            context = report_context(version) | {"panels": extensions.panels(version, self.actor)}
        return self.show("datasets/version.html", version, tab="overview", job=job, **context)


def report_context(version: DatasetVersion) -> dict[str, Any]:
    """The report as the page shows it, and the first rows."""
    figures = version.report.get("figures", {})
    lengths, labels = figures.get("lengths", {}), figures.get("labels", {})
    findings = [
        {**finding, "fix_url": suggesting.prepare_url(version, finding.get("fix", ()))}
        for finding in version.report.get("findings", [])
    ]
    return {
        "advice": suggesting.all_as_json(version, suggesting.of(version)),
        "findings": findings,
        "fix_all_url": _fix_all_url(version, findings),
        "fatal": blocks.fatal(version),
        "lengths": lengths,
        "histograms": [
            (title, lengths[key], preview.bars(lengths[key]))
            for title, key in (("Whole rows", "rows"), ("What is learned", "answers"))
            if key in lengths
        ],
        "labels": labels,
        "more_labels": labels.get("different", 0) - len(labels.get("shown", [])),
        "roles": figures.get("roles", {}),
        "pairs": figures.get("preferences", {}),
        "first_rows": preview.Rows(version)[:FIRST],
    }


def _fix_all_url(version: DatasetVersion, findings: list[dict[str, Any]]) -> str:
    """The page that prepares with the steps of all findings; empty when fewer than two have some."""
    fixes = [finding["fix"] for finding in findings if finding.get("fix")]
    return suggesting.prepare_url(version, together(fixes)) if len(fixes) > 1 else ""


def proposals(version: DatasetVersion) -> list[tuple[str, str]]:
    """(what a check found, the page with the steps that mend it), worst first."""
    findings = version.report.get("findings", [])
    found = [(finding["title"], suggesting.prepare_url(version, finding.get("fix", ()))) for finding in findings]
    return [(title, href) for title, href in found if href]


class RowsPage(AboutVersion):
    """The rows: all of them by page, or those that are searched for."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self.ready(pk)
        given = request.GET.dict()
        number = _number(given.pop("page", ""), 1)
        row = _number(given.pop("row", ""), 0)
        problem: Problem | None = None
        query, page = Query(), None
        try:
            query = read_query(given)
            page = self._page(version, query, preview.page_of(row) if 0 < row <= version.rows else number)
        except Problem as error:
            problem = error
        corrections = Corrections(request.session, version)
        if page and corrections:
            page.rows = [_corrected(found, corrections) for found in page.rows]
        return self.show(
            "datasets/rows.html",
            version,
            tab="rows",
            corrections=len(corrections),
            page=page,
            problem=problem,
            given=given,
            marked=row,
            sorts=SORTS,
            answers=_answers(version, given.get("answer", "")),
            number_fields=NUMBER_FIELDS,
            narrowed=any(given.get(name) for name in (*NUMBERS, "answer_has", "synthetic")),
            is_filtered=not query.is_everything,
            status=problem.status if problem else 200,
        )

    def _page(self, version: DatasetVersion, query: Query, number: int) -> "Found":
        offset = (number - 1) * preview.PAGE
        if query.is_everything:
            finder.warm()
            offset = min(offset, (version.rows - 1) // preview.PAGE * preview.PAGE)
            return Found(preview.Rows(version)[offset : offset + preview.PAGE], offset, version.rows)
        found = finder.find(version, query, offset, preview.PAGE)
        return Found(preview.numbered(version, found["numbers"], query.search), offset, found["count"])


def _corrected(row: preview.ShownRow, corrections: Corrections) -> preview.ShownRow:
    """The row as its correction says, and what that is."""
    found = corrections.of(row.number)
    if found is None:
        return row
    if found["row"] is None:
        return replace(row, mark="left out")
    return replace(preview.shown(StoredRow(row.number, found["row"], row.meta, "")), mark="corrected")


def _answers(version: DatasetVersion, chosen: str) -> list[dict[str, Any]]:
    """The labels to choose from: the most frequent ones, and the one that is chosen."""
    shown = list(version.report.get("figures", {}).get("labels", {}).get("shown", []))
    if shown and chosen and all(one["label"] != chosen for one in shown):
        shown.append({"label": chosen, "rows": None})
    return shown


def _number(text: str, default: int) -> int:
    """A number from an address; a wrong one is the default."""
    return max(int(text), default) if text.isascii() and text.isdecimal() and len(text) < 12 else default


class Found:
    """One page of rows. `count` is None while a search may find more."""

    def __init__(self, rows: list[Any], offset: int, count: int | None) -> None:
        self.rows, self.count = rows, count
        self.first, self.last = offset + 1, offset + len(rows)
        number = offset // preview.PAGE + 1
        has_more = self.last < count if count is not None else len(rows) == preview.PAGE
        self.previous = number - 1 if offset else None
        self.next = number + 1 if has_more else None


_SHOWN = ("changed", "added", "removed", "leakage", "similar")


class ComparePage(AboutVersion):
    """Two versions beside each other: what was added, removed and changed, and what of one is in the other."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self.ready(pk)
        reference, show = request.GET.get("to", "").strip(), request.GET.get("show", "")
        show = show if show in _SHOWN else ""
        others = (
            versions_with_all().filter(workspace=version.workspace, state=VersionState.READY).exclude(pk=version.pk)
        )
        context: dict[str, Any] = {
            "reference": reference,
            "mine": others.filter(dataset=version.dataset).order_by("-number")[:_OTHER_VERSIONS],
            "others": others.exclude(dataset=version.dataset).order_by("-created_at")[:_OTHER_VERSIONS],
        }
        status = 200
        if reference:
            try:
                context |= self._compared(version, reference, show, _number(request.GET.get("page", ""), 1))
            except Problem as problem:
                context["problem"], status = problem, problem.status
        return self.show("datasets/compare.html", version, tab="compare", status=status, **context)

    def _compared(self, version: DatasetVersion, reference: str, show: str, number: int) -> dict[str, Any]:
        """The newer of two versions of one data set is the one that was changed."""
        other = datasets.resolve(self.actor.workspace, reference, field="to")
        offset = (number - 1) * preview.PAGE
        if show == "leakage":
            found = finder.leakage(version, other, offset, preview.PAGE)
            count = found["same"] + found["same_question"]
            sides = version, other
        elif show == "similar":
            found = finder.similar(version, other, offset, preview.PAGE)
            count, sides = found["near"], (version, other)
        else:
            reverse_order = other.dataset_id == version.dataset_id and other.number < version.number
            sides = (other, version) if reverse_order else (version, other)
            found = finder.diff(*sides, show if show in ("removed", "changed") else "added", offset, preview.PAGE)
            counts = found["counts"]
            # The first that has anything, unless one is asked for.
            show = show or next((what for what in ("changed", "added", "removed") if counts[what]), "added")
            if show != "added":
                found = finder.diff(*sides, show, offset, preview.PAGE)
            count = found["counts"][show]
        counts = found.get("counts", {})
        views = [(what, what.capitalize(), counts.get(what)) for what in ("changed", "added", "removed")]
        views += [("leakage", "Leakage", None), ("similar", "Similar", None)]
        pairs = _pairs(sides, found.pop("rows"))
        page = Found(pairs, offset, count)
        return {"other": other, "sides": sides, "show": show, "views": views, "page": page, **found}


def _pairs(sides: tuple[DatasetVersion, DatasetVersion], numbers: list[list[int | None]]) -> list[dict[str, Any]]:
    shown = []
    for side, version in enumerate(sides):
        wanted = sorted({pair[side] or 0 for pair in numbers} - {0})
        shown.append({row.number: row for row in preview.numbered(version, wanted)})
    return [{"old": shown[0].get(old or 0), "new": shown[1].get(new or 0)} for old, new in numbers]


class Export(AboutVersion):
    def get(self, request: HttpRequest, pk: UUID) -> HttpResponseBase:
        version = self.ready(pk)
        return downloads.export(version, request.GET.get("format", "jsonl"), request)


class LiftBlock(AboutVersion):
    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self.version(pk)
        try:
            blocks.lift(version, request.POST.get("reason", ""), by=self.actor)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            messages.error(request, " ".join(problem.errors.get("reason", [problem.detail])))
        else:
            messages.success(request, f"{version} may be trained on now.")
        return redirect(version)
