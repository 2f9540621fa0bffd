"""Uploading in chunks, for the script on the upload pages: begin, append, and ask how much is here.

A chunk that is lost is sent again; one whose answer was lost is not written twice. What nobody finishes is swept away
after a day. The form works without any of this: then the browser sends the file with it.
"""

from django.http import HttpRequest, HttpResponse, JsonResponse

from datasets_app import uploads
from project.kernel import access
from project.kernel.errors import Problem, TooLarge, invalid
from project.kernel.pages import WorkspacePage

CHUNK = 4 * 1024**2  # bytes


class UploadEndpoint(WorkspacePage):
    """Answers JSON: what was asked for, or {"detail"} with the problem's status."""

    def answer(self, request: HttpRequest) -> dict[str, object]:
        raise NotImplementedError

    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            access.require(self.actor, "dataset.create", self.actor.workspace)
            return JsonResponse(self.answer(request))
        except Problem as problem:
            return JsonResponse({"detail": problem.detail}, status=problem.status)


class Begin(UploadEndpoint):
    """Form fields `name` and `size` -> {"upload": a ticket, "chunk": bytes at a time}."""

    def answer(self, request: HttpRequest) -> dict[str, object]:
        size = request.POST.get("size", "")
        if not size.isdecimal() or len(size) > 18:
            raise invalid("size", "Say how many bytes the file has.")
        upload = uploads.begin(request.POST.get("name", ""), int(size))
        return {"upload": uploads.ticket(upload, self.actor), "chunk": CHUNK, "arrived": 0}


class Chunk(UploadEndpoint):
    """The body is the bytes from `X-Offset` on; without a body it asks how many bytes of `X-Upload` are here."""

    def answer(self, request: HttpRequest) -> dict[str, object]:
        upload = uploads.kept(request.headers.get("X-Upload", ""), self.actor)
        length, offset = request.headers.get("Content-Length") or "0", request.headers.get("X-Offset", "0")
        if not length.isdecimal() or not offset.isdecimal() or len(offset) > 18:
            raise invalid("offset", "X-Offset is the number of bytes before this chunk.")
        if int(length) > CHUNK:
            raise TooLarge(f"Send at most {CHUNK:,} bytes at a time.")
        here = uploads.append(upload, int(offset), request.body) if int(length) else uploads.arrived(upload)[0]
        return {"arrived": here}
