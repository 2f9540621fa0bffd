from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "registry"
    label = "registry"
    verbose_name = "Models"

    def ready(self) -> None:
        from project.jobs import outcomes
        from project.kernel import access
        from registry.actions import models
        from registry.recipes import import_model

        outcomes.register(import_model.name, on_success=models.import_finished)

        access.register(
            {
                "model.create": ("editor", "write"),
                "model.import": ("editor", "write"),
                "model.edit": ("editor", "write"),
                "model.delete": ("operator", "operate"),
                "version.register": ("editor", "write"),
                "version.edit": ("editor", "write"),
                "version.submit": ("editor", "write"),
                "version.approve": ("operator", "operate"),
                "version.promote": ("operator", "operate"),
                "version.archive": ("operator", "operate"),
                "version.delete": ("operator", "operate"),
                "deployment.create": ("operator", "operate"),
                "deployment.stop": ("operator", "operate"),
                "route.edit": ("operator", "operate"),
            }
        )
