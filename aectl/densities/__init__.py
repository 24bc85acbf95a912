"""Densities of codes, with which a model that encodes and decodes can sample.

A density is fitted to the codes of training images after training, as in Ghosh et al. 2020, "From variational to
deterministic autoencoders", and Dai & Wipf 2019, "Diagnosing and enhancing VAE models".
"""

from aectl.densities.decode import decode_codes
from aectl.densities.density import Density
from aectl.densities.kept import MAX_CODES, CodeDensities, count_components
from aectl.densities.registry import DENSITIES

__all__ = ["DENSITIES", "MAX_CODES", "CodeDensities", "Density", "count_components", "decode_codes"]
