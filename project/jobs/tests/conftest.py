"""Recipes without a model, found by this process and by engines."""

import os

os.environ["TUNELOOP_EXTRA_RECIPES"] = ",".join(
    dict.fromkeys(
        [
            *filter(None, os.environ.get("TUNELOOP_EXTRA_RECIPES", "").split(",")),
            "project.runner.tests.recipes",
            "project.jobs.tests.recipes",
        ]
    )
)
