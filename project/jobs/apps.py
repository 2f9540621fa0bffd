from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "project.jobs"
    label = "jobs"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from project.jobs import broker, tasks
        from project.kernel import access

        broker.install()
        tasks.schedule()
        access.register(
            {
                "job.create": ("editor", "write"),
                "job.start": ("editor", "write"),
                "job.cancel": ("editor", "write"),  # one's own; others' need the next one
                "job.cancel_any": ("operator", "operate"),
                "job.retry": ("editor", "write"),
            }
        )
