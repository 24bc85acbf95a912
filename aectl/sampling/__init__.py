"""Images made by trained models. Each module makes some kinds of images and declares them."""

from aectl.sampling.kind import Kind
from aectl.sampling.registry import KINDS
from aectl.sampling.request import Arrays, Impossible, Request

__all__ = ["KINDS", "Arrays", "Impossible", "Kind", "Request"]
