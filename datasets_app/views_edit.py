"""Correcting rows by hand: one form per row, and one button that makes a version of all corrections."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets_app import storage
from datasets_app.actions import preparations
from datasets_app.corrections import Corrections, texts, with_texts
from datasets_app.models import DatasetVersion
from datasets_app.storage import StoredRow
from datasets_app.views_rows import AboutVersion
from project.contracts.rows import ROW
from project.kernel import access, artifacts
from project.kernel.errors import NotReady, Problem

LONGEST = 100_000  # characters of a row in a form


class EditRow(AboutVersion):
    """The texts of one row. What is kept is not saved yet: the page of rows shows it and has the button for that."""

    def get(self, request: HttpRequest, pk: UUID, number: int) -> HttpResponse:
        version, stored = self._row(pk, number)
        kept = Corrections(request.session, version).of(number)
        return self._show(version, stored, (kept or {}).get("row") or stored.row, kept=kept)

    def post(self, request: HttpRequest, pk: UUID, number: int) -> HttpResponse:
        version, stored = self._row(pk, number)
        kept = Corrections(request.session, version)
        row: dict[str, Any] | None = with_texts(stored.row, request.POST.dict())
        try:
            match request.POST.get("do", "keep"):
                case "leave-out":
                    kept.put(stored, None)
                case "undo":
                    kept.put(stored, stored.row)
                case _:
                    ROW.validate_python(row)
                    kept.put(stored, row)
        except Problem as problem:
            said = " ".join(" ".join(found) for found in problem.errors.values()) or problem.detail
            return self._show(version, stored, row or stored.row, kept=kept.of(number), problem=said, status=400)
        except ValueError:
            said = "It holds half a character or something else that can't be kept."
            return self._show(version, stored, row or stored.row, kept=kept.of(number), problem=said, status=400)
        return redirect(f"{reverse('dataset-rows', args=[version.pk])}?row={number}#row-{number}")

    def _row(self, pk: UUID, number: int) -> tuple[DatasetVersion, StoredRow]:
        version = self.ready(pk)
        access.require(self.actor, "dataset.create", version)
        if not 1 <= number <= version.rows or version.artifact is None:
            raise Http404
        stored = storage.numbered(artifacts.local_path(version.artifact), [number])[0]
        if sum(len(text.text) for text in texts(stored.row)) > LONGEST:
            raise NotReady(
                f"Row {number:,} is too long to be edited in a form: more than {LONGEST:,} characters. "
                "Prepare a version with steps, or upload one."
            )
        return version, stored

    def _show(
        self, version: DatasetVersion, stored: StoredRow, row: dict[str, Any], *, status: int = 200, **context: Any
    ) -> HttpResponse:
        return self.show(
            "datasets/edit_row.html",
            version,
            tab="rows",
            number=stored.number,
            texts=texts(row),
            status=status,
            **context,
        )


class SaveCorrections(AboutVersion):
    """POST: `do=save` makes a version of all corrections, `do=drop` forgets them."""

    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self.ready(pk)
        kept = Corrections(request.session, version)
        if request.POST.get("do") == "drop":
            kept.drop()
            return redirect("dataset-rows", version.pk)
        if not kept:
            messages.error(request, "Nothing was corrected yet.")
            return redirect("dataset-rows", version.pk)
        try:
            made = preparations.prepare(version, [kept.step()], by=self.actor)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            said = " ".join(" ".join(found) for found in problem.errors.values())
            messages.error(request, said or problem.detail)
            return redirect("dataset-rows", version.pk)
        kept.drop()
        return redirect(made[0])
