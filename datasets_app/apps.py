from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    name = "datasets_app"
    label = "datasets_app"
    verbose_name = "Data sets"

    def ready(self) -> None:
        from datasets_app.actions import datasets, preparations, synthesis
        from datasets_app.recipes import augment, fetch_rows, import_rows, prepare, synthesize
        from project.jobs import outcomes
        from project.kernel import access

        access.register(
            {
                "dataset.create": ("editor", "write"),
                "dataset.edit": ("editor", "write"),
                "dataset.delete": ("editor", "write"),
                "dataset.lift_block": ("operator", "operate"),
            }
        )
        for recipe in (import_rows, fetch_rows):
            outcomes.register(
                recipe.name,
                on_success=datasets.imported,
                on_failure=datasets.not_imported,
                on_retry=datasets.tried_again,
            )
        outcomes.register(
            prepare.name,
            on_success=preparations.prepared,
            on_failure=preparations.not_prepared,
            on_retry=preparations.tried_again,
        )
        for writing in (synthesize, augment):
            outcomes.register(
                writing.name,
                on_success=synthesis.written,
                on_failure=synthesis.not_written,
                on_retry=synthesis.tried_again,
            )
