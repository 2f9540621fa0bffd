"""A version with fatal findings can't be trained on, until an operator says why it may."""

from django.utils import timezone

from datasets_app.models import DatasetVersion
from project.kernel import access, audit, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, NotReady, invalid

MAX_REASON = 1_000  # characters


def lift(version: DatasetVersion, reason: str, *, by: Actor) -> DatasetVersion:
    """Let people train on a blocked version. Raises Invalid without a reason, Conflict when it is not blocked."""
    access.require(by, "dataset.lift_block", version)
    reason = reason.replace("\x00", "").strip()
    if not reason:
        raise invalid("reason", "Say why it may be trained on all the same.")
    if len(reason) > MAX_REASON:
        raise invalid("reason", f"Use at most {MAX_REASON:,} characters.")
    lifted = {"blocked": False, "lifted_by": by.label[:200], "lifted_reason": reason, "lifted_at": timezone.now()}
    # Two people at once: the second finds nothing to lift, so the record names the one who did it.
    if not DatasetVersion.objects.filter(pk=version.pk, blocked=True).update(**lifted):
        raise Conflict(f"{version} is not blocked.")
    version.refresh_from_db()
    audit.record("dataset.block_lifted", version, by=by, reason=reason, findings=fatal(version))
    live.publish(f"workspace.{version.workspace_id}", kind="dataset", id=str(version.dataset_id))
    return version


def fatal(version: DatasetVersion) -> list[str]:
    """What blocks it: the titles of the findings that are errors."""
    return [finding["title"] for finding in version.report.get("findings", []) if finding["severity"] == "error"]


def require_trainable(version: DatasetVersion) -> DatasetVersion:
    """The version itself. Raises NotReady with what is fatal about it while it is blocked."""
    if version.blocked:
        raise NotReady(
            f"{version} can't be trained on: {'; '.join(fatal(version))}. "
            "Prepare a version without that, or ask an operator to lift the block with a reason."
        )
    return version
