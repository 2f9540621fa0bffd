from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"
    label = "training"
    verbose_name = "Training"

    def ready(self) -> None:
        from datasets_app import extensions
        from datasets_app.actions import datasets
        from project.jobs import outcomes, subjects
        from project.kernel import access
        from registry import comparison
        from training import answers, panels, suggestions
        from training import subjects as links
        from training.actions import checkpoints, evaluations, finetunes, preflights
        from training.engine.recipes import evaluate, preflight, register_checkpoint, token_lengths
        from training.planning import training_recipes

        access.register(
            {
                "finetune.create": ("editor", "write"),
                "evaluation.create": ("editor", "write"),
                "preflight.create": ("editor", "write"),
            }
        )
        for recipe in training_recipes():
            outcomes.register(recipe.name, on_success=finetunes.finished, on_retry=finetunes.retried)
        outcomes.register(evaluate.name, on_success=evaluations.finished, on_retry=evaluations.retried)
        outcomes.register(register_checkpoint.name, on_success=checkpoints.finished, on_retry=checkpoints.retried)
        for looking in (preflight, token_lengths):
            outcomes.register(looking.name, on_success=preflights.finished, on_retry=preflights.retried)
        extensions.register_panel(panels.token_lengths)
        extensions.register_suggestions(suggestions.of_version)
        datasets.before_delete(preflights.forget)
        subjects.register("finetune", links.of_fine_tune)
        subjects.register("preflight", links.of_preflight)
        subjects.register("evaluation", links.of_evaluation)
        comparison.register_answers(answers.side_by_side)
