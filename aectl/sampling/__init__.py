"""Pictures that a trained model can be asked for, a module for each way of making them, and `KINDS`, the list."""

from aectl.sampling.kinds import KINDS, Kind, is_conditional
from aectl.sampling.request import Arrays, Impossible, Request

__all__ = ["KINDS", "Arrays", "Impossible", "Kind", "Request", "is_conditional"]
