"""Pages of data sets and their versions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets_app import mapping, preview, sources, uploads
from datasets_app.actions import datasets
from datasets_app.encodings import KNOWN
from datasets_app.forms import DatasetForm, NewDatasetForm, UploadForm
from datasets_app.importing import Entry, Looked, Options, look
from datasets_app.incoming import limits
from datasets_app.mapping import UnclearColumns, suggest
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.queries import datasets_with_versions, versions_with_all
from datasets_app.reading import FORMATS
from datasets_app.sources import Uri
from datasets_app.storage import StoredRow
from datasets_app.uploads import Upload
from project.contracts.runs import UserError
from project.kernel import access
from project.kernel.errors import Problem, invalid
from project.kernel.pages import WorkspacePage, add_problem


class Datasets(WorkspacePage):
    """All data sets: what is in them, and is it ready."""

    def get(self, request: HttpRequest) -> HttpResponse:
        rows = access.visible(datasets_with_versions(), self.actor).order_by("-updated_at", "-id")
        search = request.GET.get("search", "").strip().replace("\0", "")
        if search:
            rows = rows.filter(Q(name__icontains=search) | Q(description__icontains=search))
        page = self.paged(rows)
        for dataset in page:
            dataset.newest = next(iter(dataset.newest_list), None)
            dataset.ready = next(iter(dataset.ready_list), None)
        busy = any(dataset.newest and dataset.newest.is_importing for dataset in page)
        return self.render("datasets/list.html", page=page, search=search, busy=busy)


SUGGESTED = "a suggestion: see below whether it is meant"


class Uploading(WorkspacePage):
    """A form with a file. What was uploaded is kept while its columns, its name or anything else is corrected.

    What the file seems to be is shown with the evidence, and its first rows as they would be stored.
    """

    template = ""
    form_class: type[UploadForm] = UploadForm

    def context(self) -> dict[str, Any]:
        return {}

    def save(self, file: Upload | Uri, form: UploadForm, **reading: Any) -> DatasetVersion:
        raise NotImplementedError

    def show(self, form: UploadForm, *, upload: Upload | None = None, status: int = 200) -> HttpResponse:
        ticket = uploads.ticket(upload, self.actor) if upload else ""
        looked = self._look(form, upload) if upload else None
        only_a_part = "part" in self.request.POST  # the script asks for the file's part of the form only
        return self.render(
            "datasets/_upload.html" if only_a_part else self.template,
            status=status,
            form=form,
            upload=upload,
            ticket=ticket,
            looked=looked,
            is_clear=bool(looked and looked.mapped and looked.mapped.evidence != SUGGESTED and not form.errors),
            is_being_mapped="column_0" in self.request.POST,
            first_rows=[shown_entry(entry) for entry in looked.rows[:2]] if looked else [],
            **self.context(),
        )

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        access.require(self.actor, "dataset.create", self.actor.workspace)
        return self.show(self.form_class())

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        access.require(self.actor, "dataset.create", self.actor.workspace)
        self.context()  # another workspace's data set is not found before its file is read
        form = self.form_class(request.POST, request.FILES)
        try:
            file = self._file(request)
        except Problem as problem:
            form.is_valid()
            add_problem(form, problem)
            return self.show(form, status=problem.status)
        upload = file if isinstance(file, Upload) else None
        if upload is None and "look" in request.POST:
            form.is_valid()
            form.errors.clear()
            form.add_error("source", "This is looked at when it has been fetched. Import it; its page shows the rows.")
            return self.show(form, status=400)
        if upload and ("look" in request.POST or "column_0" in request.POST):
            self._offer_columns(form, upload)
        if upload and "look" in request.POST:
            form.is_valid()
            form.errors.clear()  # the rest of the form may be empty as yet
            return self.show(form, upload=upload)
        if not form.is_valid():
            return self.show(form, upload=upload, status=400)
        columns = form.mapped()
        if form.errors:
            return self.show(form, upload=upload, status=400)
        try:
            version = self.save(file, form, columns=columns, **form.reading())
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            if upload and isinstance(problem.__cause__, UnclearColumns):
                if not form.columns:
                    self._offer_columns(form, upload)
                form.add_error(
                    None, f"{problem.__cause__} Say below what each column is; others are kept beside the row."
                )
            elif form.columns and "columns" in problem.errors:
                form.add_error(None, " ".join(problem.errors["columns"]))  # its choices are the form's, not the field
            else:
                add_problem(form, problem)
            return self.show(form, upload=upload, status=problem.status)
        return redirect(version)

    def _file(self, request: HttpRequest) -> Upload | Uri:
        """The file of this request, else the one that was sent before, else the place that is named."""
        file = request.FILES.get("file")
        if file is None and request.POST.get("upload"):
            return uploads.whole(request.POST["upload"], self.actor)
        if file is None and request.POST.get("source", "").strip():
            try:
                return sources.parse(request.POST["source"])
            except UserError as error:
                raise invalid("source", f"{error} {error.hint}".strip()) from None
        return uploads.receive(file)

    def _options(self, form: UploadForm) -> Options:
        """How to look at the file: as the form says, where it says something usable. Nothing is validated yet."""
        wanted, encoding = form.data.get("format", "auto"), form.data.get("encoding", "auto")
        return Options(
            format=wanted if wanted in FORMATS.names() else "auto",
            encoding=encoding if encoding in KNOWN else "auto",
            split=form.data.get("split", "")[:100],
            limits=limits(),
        )

    def _look(self, form: UploadForm, upload: Upload) -> Looked | None:
        """What the file seems to be; None when it can't be read at all, and then an error says so."""
        options, columns = self._options(form), form.so_far()
        try:
            looked = look(upload.path, options, name=upload.name)
            if not columns or (looked.mapped and "column_0" not in self.request.POST):
                return looked
            mapped = look(upload.path, replace(options, columns=columns), name=upload.name)
            if mapped.mapped and "column_0" not in self.request.POST:
                return replace(mapped, mapped=replace(mapped.mapped, evidence=SUGGESTED))
            if mapped.mapped is None:
                mapped = replace(mapped, problem=no_row(columns, mapped.columns))
            return mapped
        except UserError as error:
            if not form.errors:
                form.add_error(error.field if error.field in form.fields else "file", f"{error} {error.hint}".strip())
            return None

    def _offer_columns(self, form: UploadForm, upload: Upload) -> None:
        """Add a choice per column, unless the file can't be read at all: then its error says so."""
        try:
            looked = look(upload.path, self._options(form), name=upload.name)
        except UserError:
            return
        mapped = looked.mapped.columns if looked.mapped else suggest(looked.columns)
        form.offer_columns(looked.columns, looked.records, mapped)


def no_row(parts: Mapping[str, str], columns: Sequence[str]) -> str:
    """Why the columns chosen so far make no row; empty when they do."""
    try:
        mapping.chosen(parts, columns)
    except UserError as error:
        return f"{error} {error.hint}".strip()
    return ""


def shown_entry(entry: Entry) -> preview.ShownRow:
    """A row that is not stored yet, as pages show rows."""
    return preview.shown(StoredRow(entry.number, dict(entry.value), json.loads(entry.meta), entry.hash))


class NewDataset(Uploading):
    template = "datasets/new.html"
    form_class = NewDatasetForm

    def save(self, file: Upload | Uri, form: UploadForm, **reading: Any) -> DatasetVersion:
        data = form.cleaned_data
        workspace = self.actor.workspace
        about = {"description": data["description"]}
        return datasets.create(workspace, data["name"], file, by=self.actor, **about, **reading)


class NewVersion(Uploading):
    """Upload a file as the next version of a data set."""

    template = "datasets/new_version.html"

    def dataset(self) -> Dataset:
        return access.find(Dataset.objects.all(), self.actor, pk=self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        return {"dataset": self.dataset()}

    def save(self, file: Upload | Uri, form: UploadForm, **reading: Any) -> DatasetVersion:
        return datasets.add_version(self.dataset(), file, by=self.actor, **reading)


class DatasetPage(WorkspacePage):
    """One data set: its versions, its name."""

    def get(self, request: HttpRequest, pk: UUID, form: DatasetForm | None = None, status: int = 200) -> HttpResponse:
        dataset = access.find(Dataset.objects.all(), self.actor, pk=pk)
        versions = versions_with_all().select_related("parent__dataset").defer("report", "parent__report")
        page = self.paged(versions.filter(dataset=dataset).order_by("-number"), size=25)
        start = {"name": dataset.name, "description": dataset.description}
        return self.render(
            "datasets/dataset.html",
            status=status,
            dataset=dataset,
            page=page,
            busy=any(version.is_importing for version in page),
            form=form or DatasetForm(initial=start),
        )

    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        dataset = access.find(Dataset.objects.all(), self.actor, pk=pk)
        form = DatasetForm(request.POST)
        if form.is_valid():
            try:
                datasets.edit(dataset, **form.cleaned_data, by=self.actor)
            except Problem as problem:
                add_problem(form, problem)
            else:
                return redirect(dataset)
        return self.get(request, pk, form, 400)


class DeleteDataset(WorkspacePage):
    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        dataset = access.find(Dataset.objects.all(), self.actor, pk=pk)
        name = dataset.name
        if self.attempt(lambda: datasets.delete(dataset, by=self.actor), f"{name} and its versions are deleted."):
            return redirect("datasets")
        return redirect("dataset", pk)
