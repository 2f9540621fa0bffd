from django.apps import AppConfig


class ABTestsConfig(AppConfig):
    name = "abtests"
    label = "abtests"
    verbose_name = "Answers and A/B tests"
