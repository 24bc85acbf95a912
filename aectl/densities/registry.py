"""The densities that `aectl sample density=` and `aectl eval sampler=` choose from."""

from __future__ import annotations

from aectl.densities.distribution import Distribution
from aectl.densities.mixture import Gaussian, Mixture

DENSITIES: dict[str, type[Distribution]] = {one.name: one for one in (Gaussian, Mixture)}
"""Distributions by name."""
