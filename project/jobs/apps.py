from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "project.jobs"
    label = "jobs"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from project.jobs import broker, tasks
        from project.jobs.actions import jobs
        from project.kernel import access
        from project.kernel.actions import endpoints

        broker.install()
        tasks.schedule()
        endpoints.ask_before_deleting(jobs.still_calling)
        access.register(
            {
                "job.create": ("editor", "write"),
                "job.start": ("editor", "write"),
                "job.cancel": ("editor", "write"),  # one's own; others' need the next one
                "job.cancel_any": ("operator", "operate"),
                "job.retry": ("editor", "write"),
            }
        )
