"""A stranger sees nothing; a role does what it may and no more; tokens never do more than their maker."""

import pytest
from django.db import DatabaseError, transaction

from project.kernel import access, audit
from project.kernel.actions import tokens
from project.kernel.errors import Forbidden, Invalid, NotFound
from project.kernel.models import ApiToken, AuditEntry
from project.testing import Cast


def test_another_workspaces_object_does_not_exist(cast: Cast) -> None:
    token, _ = tokens.create(name="ci", by=cast.actor("owner"))
    with pytest.raises(NotFound):
        tokens.revoke(token, by=cast.actor("stranger"))
    assert access.visible(ApiToken.objects.all(), cast.actor("stranger")).count() == 0


def test_a_token_is_never_more_than_its_maker(cast: Cast) -> None:
    with pytest.raises(Forbidden, match="can't be owner"):
        tokens.create(name="ci", role="owner", by=cast.actor("teammate"))


def test_a_narrowed_token_may_do_only_its_scopes(cast: Cast) -> None:
    token, _ = tokens.create(name="ci", scopes=["infer"], by=cast.actor("owner"))
    with pytest.raises(Forbidden, match="'write' scope"):
        tokens.create(name="another", by=access.Actor.for_token(token))


def test_unknown_scope_names_the_field(cast: Cast) -> None:
    with pytest.raises(Invalid) as caught:
        tokens.create(name="ci", scopes=["everything"], by=cast.actor("owner"))
    assert "scopes" in caught.value.errors


def test_secrets_are_not_stored(cast: Cast) -> None:
    token, secret = tokens.create(name="ci", by=cast.actor("owner"))
    stored = ApiToken.objects.filter(pk=token.pk).values().get()
    assert secret not in str(stored)


@pytest.mark.parametrize("change", ["update", "delete"])
def test_audit_entries_cannot_be_changed_or_deleted(cast: Cast, change: str) -> None:
    entry = audit.record("workspace.renamed", cast.workspace, by=cast.actor("owner"))
    rows = AuditEntry.objects.filter(pk=entry.pk)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        rows.update(verb="nothing") if change == "update" else rows._raw_delete(rows.db)
    assert AuditEntry.objects.get(pk=entry.pk).verb == "workspace.renamed"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("run", [1, 2])
def test_tests_with_real_transactions_leave_the_triggers_in_place(cast: Cast, run: int) -> None:
    entry = audit.record("workspace.renamed", cast.workspace, by=cast.actor("owner"))
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEntry.objects.filter(pk=entry.pk).update(verb="nothing")
