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
            }
        )
