from django.apps import AppConfig


class ABTestsConfig(AppConfig):
    name = "abtests"
    label = "abtests"
    verbose_name = "Answers and A/B tests"

    def ready(self) -> None:
        from project.kernel import access

        access.register(
            {
                "answer.read": ("viewer", "read"),
                "feedback.read": ("viewer", "read"),
                "feedback.create": ("viewer", "feedback"),
                "playground.chat": ("viewer", "infer"),
                "abtest.read": ("viewer", "read"),
                "abtest.create": ("operator", "operate"),
                "abtest.run": ("operator", "operate"),
                "abtest.delete": ("operator", "operate"),
            }
        )
