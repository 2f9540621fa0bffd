from training.models.evaluations import Evaluation
from training.models.finetunes import FineTune

__all__ = ["Evaluation", "FineTune"]
