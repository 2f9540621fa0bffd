from django.apps import AppConfig


class KernelConfig(AppConfig):
    name = "project.kernel"
    label = "kernel"
    verbose_name = "People and audit"

    def ready(self) -> None:
        import project.celery  # noqa: F401  (tasks bind to the app when Django starts)
        from project.kernel import access
        from project.kernel.api import schema  # noqa: F401  (describes how programs and pages sign in)

        access.register(
            {
                "workspace.read": ("viewer", "read"),
                "workspace.manage": ("owner", "write"),
                "member.manage": ("owner", "write"),
                "token.create": ("viewer", "write"),
                "token.manage": ("owner", "write"),
                "audit.read": ("operator", "read"),
                "endpoint.use": ("editor", "write"),
                "endpoint.manage": ("operator", "operate"),
            }
        )
        check_settings()


def check_settings() -> None:
    """What only other modules can judge; like every bad setting it stops the start, by name."""
    from django.conf import settings

    from project.env import BadSetting
    from project.kernel import vault
    from project.kernel.actions import endpoints

    try:
        endpoints.allow_list()
    except ValueError as error:
        raise BadSetting("OUTGOING_ALLOW", str(error)) from None
    try:
        if settings.VAULT_KEY:
            vault.keys()
    except vault.BadKey as error:
        raise BadSetting("VAULT_KEY", str(error)) from None
