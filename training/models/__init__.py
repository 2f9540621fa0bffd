from training.models.evaluations import Evaluation
from training.models.finetunes import FineTune
from training.models.preflights import Preflight

__all__ = ["Evaluation", "FineTune", "Preflight"]
