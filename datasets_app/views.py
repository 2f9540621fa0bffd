"""Pages of data sets and their versions."""

from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets_app import uploads
from datasets_app.actions import datasets
from datasets_app.forms import DatasetForm, NewDatasetForm, UploadForm
from datasets_app.importing import Options, look
from datasets_app.mapping import UnclearColumns, suggest
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.queries import datasets_with_versions, versions_with_all
from datasets_app.uploads import Upload
from project.contracts.runs import UserError
from project.kernel import access
from project.kernel.errors import Problem
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


class Uploading(WorkspacePage):
    """A form with a file. What was uploaded is kept while its columns, its name or anything else is corrected."""

    template = ""
    form_class: type[UploadForm] = UploadForm

    def context(self) -> dict[str, Any]:
        return {}

    def save(self, upload: Upload, form: UploadForm, **reading: Any) -> DatasetVersion:
        raise NotImplementedError

    def show(self, form: UploadForm, *, upload: Upload | None = None, status: int = 200) -> HttpResponse:
        ticket = uploads.ticket(upload, self.actor) if upload else ""
        return self.render(self.template, status=status, form=form, upload=upload, ticket=ticket, **self.context())

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        access.require(self.actor, "dataset.create", self.actor.workspace)
        return self.show(self.form_class())

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        access.require(self.actor, "dataset.create", self.actor.workspace)
        self.context()  # another workspace's data set is not found before its file is read
        form = self.form_class(request.POST, request.FILES)
        try:
            upload = self._upload(request)
        except Problem as problem:
            form.is_valid()
            add_problem(form, problem)
            return self.show(form, status=problem.status)
        if "look" in request.POST or "column_0" in request.POST:
            self._offer_columns(form, upload)
        if not form.is_valid() or "look" in request.POST:
            return self.show(form, upload=upload, status=400 if form.errors else 200)
        columns = form.mapped()
        if form.errors:
            return self.show(form, upload=upload, status=400)
        data = form.cleaned_data
        try:
            reading = {"skip_bad_lines": data["skip_bad_lines"], "format": data["format"] or "auto"}
            version = self.save(upload, form, columns=columns, **reading)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            if isinstance(problem.__cause__, UnclearColumns) and not form.columns:
                self._offer_columns(form, upload)
                form.add_error(
                    None, f"{problem.__cause__} Say below what each column is; others are kept beside the row."
                )
            else:
                add_problem(form, problem)
            return self.show(form, upload=upload, status=problem.status)
        return redirect(version)

    def _upload(self, request: HttpRequest) -> Upload:
        """The file of this request, else the one that was sent before."""
        file = request.FILES.get("file")
        if file is None and request.POST.get("upload"):
            return uploads.kept(request.POST["upload"], self.actor)
        return uploads.receive(file)

    def _offer_columns(self, form: UploadForm, upload: Upload) -> None:
        """Add a choice per column, unless the file can't be read at all: then its error says so."""
        try:
            _, columns, rows = look(upload.path, Options(), name=upload.name)
        except UserError:
            return
        form.offer_columns(columns, rows, suggest(columns))


class NewDataset(Uploading):
    template = "datasets/new.html"
    form_class = NewDatasetForm

    def save(self, upload: Upload, form: UploadForm, **reading: Any) -> DatasetVersion:
        data = form.cleaned_data
        workspace = self.actor.workspace
        about = {"description": data["description"]}
        return datasets.create(workspace, data["name"], upload, by=self.actor, **about, **reading)


class NewVersion(Uploading):
    """Upload a file as the next version of a data set."""

    template = "datasets/new_version.html"

    def dataset(self) -> Dataset:
        return access.find(Dataset.objects.all(), self.actor, pk=self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        return {"dataset": self.dataset()}

    def save(self, upload: Upload, form: UploadForm, **reading: Any) -> DatasetVersion:
        return datasets.add_version(self.dataset(), upload, by=self.actor, **reading)


class DatasetPage(WorkspacePage):
    """One data set: its versions, its name."""

    def get(self, request: HttpRequest, pk: UUID, form: DatasetForm | None = None, status: int = 200) -> HttpResponse:
        dataset = access.find(Dataset.objects.all(), self.actor, pk=pk)
        page = self.paged(versions_with_all().filter(dataset=dataset).order_by("-number"), size=25)
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
