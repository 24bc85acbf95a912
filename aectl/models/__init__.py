"""Models, one family in each file. `base` defines the interface of all models and their optional abilities."""

from aectl.metric import Metric
from aectl.models.base import Batch, Group, Loss, Model, Score, Stage

__all__ = ["Batch", "Group", "Loss", "Metric", "Model", "Score", "Stage"]
