"""Pictures that a trained model can make: each module makes some and declares their kinds."""

from aectl.sampling.kind import Kind
from aectl.sampling.registry import KINDS
from aectl.sampling.request import Arrays, Impossible, Request

__all__ = ["KINDS", "Arrays", "Impossible", "Kind", "Request"]
