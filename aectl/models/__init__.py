"""Models: one family, one file. What every model is, and may be able to do, stands in `base`."""

from aectl.metric import Metric
from aectl.models.base import Batch, Group, Loss, Model, Score, Stage

__all__ = ["Batch", "Group", "Loss", "Metric", "Model", "Score", "Stage"]
