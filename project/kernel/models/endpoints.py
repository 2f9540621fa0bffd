"""Models elsewhere that write for us, and the tokens they want."""

from django.db import models

from project.kernel import vault
from project.kernel.models.base import WorkspaceObject


class Secret(WorkspaceObject):
    """A token for another server. It can be written, replaced and used; nothing ever shows it again.

    It is sent to `origin` only: whoever changes an endpoint's address can't have the token sent there.
    """

    name = models.CharField(max_length=100)
    origin = models.CharField(max_length=300, help_text="the only server it is sent to, as in https://host:port")
    ciphertext = models.TextField(editable=False)
    key_id = models.CharField(max_length=16, editable=False, help_text="which key of the vault it is encrypted with")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(WorkspaceObject.Meta):
        constraints = [models.UniqueConstraint(fields=["workspace", "name"], name="one_secret_per_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def _context(self) -> str:
        return f"{self.workspace_id}/{self.pk}/{self.origin}"

    def seal(self, value: str) -> None:
        """Take a value, encrypted. Saves nothing."""
        sealed = vault.seal(value, context=self._context)
        self.ciphertext, self.key_id = sealed.text, sealed.key_id

    def unseal(self) -> str:
        """The value, for a process that is about to use it. Raises vault.NoKey."""
        return vault.unseal(vault.Sealed(self.key_id, self.ciphertext), context=self._context)


class Endpoint(WorkspaceObject):
    """A model behind an OpenAI-compatible address. What `check` found is kept with it."""

    name = models.CharField(max_length=100)
    url = models.CharField(max_length=500, help_text="what /chat/completions is put behind")
    model = models.CharField(max_length=200, help_text="what the server calls the model")
    secret = models.ForeignKey(Secret, null=True, blank=True, on_delete=models.PROTECT, related_name="endpoints")
    updated_at = models.DateTimeField(auto_now=True)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    check_ok = models.BooleanField(null=True, editable=False, help_text="did it answer when it was last checked?")
    check_detail = models.CharField(max_length=600, blank=True, editable=False)

    class Meta(WorkspaceObject.Meta):
        constraints = [models.UniqueConstraint(fields=["workspace", "name"], name="one_endpoint_per_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        if self.check_ok is None:
            return "unchecked"
        return "ready" if self.check_ok else "failed"
