"""`manage.py rotate_vault_key`: encrypt all secrets anew, and forget the keys that nothing needs."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from project.kernel import vault
from project.kernel.models import Secret


class Command(BaseCommand):
    help = (
        "Encrypt all secrets under a new key and drop the old ones. With VAULT_KEY set, under its first key: put the "
        "new one in front, restart, run this, then take the old one away."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.VAULT_KEY:
            vault.add_key()
        wanted = vault.id_of(vault.keys()[0])
        try:
            count = _encrypt_anew(wanted)
        except vault.NoKey as error:
            raise CommandError(error.detail) from None
        dropped = 0 if settings.VAULT_KEY else vault.drop_keys(but=set(Secret.objects.values_list("key_id", flat=True)))
        self.stdout.write(f"{count} secrets are encrypted anew, under key {wanted}; {dropped} old keys are gone.")


def _encrypt_anew(wanted: str) -> int:
    with transaction.atomic():
        old = list(Secret.objects.select_for_update().exclude(key_id=wanted))
        for secret in old:
            secret.seal(secret.unseal())
            secret.save(update_fields=["ciphertext", "key_id"])
    return len(old)
