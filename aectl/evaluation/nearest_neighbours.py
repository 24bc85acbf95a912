"""Exact nearest neighbours in Euclidean distance, for images and for codes."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 500
"""Vectors whose distances are computed at a time."""
DIRECTIONS = 64
"""Number of principal directions that lower bounds of distances are computed from."""
SIMPLE = 2 * DIRECTIONS, 5000
"""Up to these numbers of dimensions and reference vectors, all distances are computed directly."""
FITTED = 5000
"""Number of reference vectors that the directions are fitted to; any directions give valid bounds."""
CANDIDATES = 2000
"""With a higher mean number of candidates, all distances of a chunk are computed."""
SLACK = 1e-4
"""Relative rounding error of a bound in single precision."""


class Neighbours:
    """Finds the vectors of `reference` [M, D] that are nearest to other vectors.

    With a projection P on orthonormal directions, ‖a - b‖² ≥ ‖Pa - Pb‖² + (‖a - Pa‖ - ‖b - Pb‖)². Only vectors whose
    bound is below the k-th smallest distance found so far are compared in full; for images these are some tens of
    55,000. The result is exact.
    """

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference
        self.bounded = reference.shape[1] > SIMPLE[0] and len(reference) > SIMPLE[1]
        if self.bounded:
            fitted = reference[:: max(1, len(reference) // FITTED)]
            self.mean = fitted.mean(0)
            centred = fitted - self.mean
            _, vectors = torch.linalg.eigh((centred.T @ centred).double())
            self.directions = vectors[:, -DIRECTIONS:].to(reference.dtype)
            self.bounds = self.project(reference)
            # ‖b‖² of the projections if the search uses bounds, otherwise of the vectors.
            self.squares = self.bounds.square().sum(1)
            self.rounding = SLACK * float(self.squares.max())
        else:
            self.squares = reference.square().sum(1)

    def project(self, x: Tensor) -> Tensor:
        """Return the projections of vectors [N, D] and the lengths of the remainders, [N, directions + 1]."""
        centred = x - self.mean
        inside = centred @ self.directions
        left = (centred.square().sum(1) - inside.square().sum(1)).clamp_min(0).sqrt()
        return torch.cat([inside, left[:, None]], 1)

    def search(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances and positions [N, k] of the k vectors nearest to each of `x` [N, D], nearest first."""
        found = [self.search_chunk(part, k) for part in x.split(CHUNK)]
        return torch.cat([distances for distances, _ in found]), torch.cat([positions for _, positions in found])

    def search_chunk(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the distances and positions of a chunk's neighbours."""
        if not self.bounded:
            return self.compare_all(x, k)
        projected = self.project(x)
        bounds = torch.addmm(self.squares, projected, self.bounds.T, alpha=-2)
        # ‖a‖² is the same for all b: it is subtracted from the limits instead.
        first = bounds.topk(k, dim=1, largest=False).indices if k > 1 else bounds.argmin(1, keepdim=True)
        limit = self.exact(x, first).amax(1).square()
        own = projected.square().sum(1)
        within = bounds <= (limit - own + self.rounding + SLACK * own)[:, None]
        rows, columns = within.nonzero(as_tuple=True)
        if len(rows) > CANDIDATES * len(x):
            return self.compare_all(x, k)
        counts = within.sum(1)
        # One row of candidates for each vector, in order of position, padded with infinity.
        slots = torch.arange(len(rows), device=x.device) - (counts.cumsum(0) - counts)[rows]
        distances = x.new_full((len(x), int(counts.max())), torch.inf)
        positions = rows.new_zeros(distances.shape)
        pairs = zip(rows.split(CHUNK * 64), columns.split(CHUNK * 64), strict=True)
        distances[rows, slots] = torch.cat([(x[a] - self.reference[b]).norm(dim=1) for a, b in pairs])
        positions[rows, slots] = columns
        order = distances.topk(k, dim=1, largest=False).indices if k > 1 else distances.argmin(1, keepdim=True)
        return distances.gather(1, order), positions.gather(1, order)

    def compare_all(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the distances and positions of a chunk's neighbours by computing all distances."""
        squares = self.reference.square().sum(1) if self.bounded else self.squares
        # ‖a - b‖² without ‖a‖², which is the same for all b.
        found = torch.addmm(squares, x, self.reference.T, alpha=-2)
        positions = found.topk(k, dim=1, largest=False).indices if k > 1 else found.argmin(1, keepdim=True)
        return self.exact(x, positions), positions

    def exact(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return the distances [N, k] to the reference vectors at `positions` [N, k].

        They are computed from differences: ‖a‖² - 2ab + ‖b‖² would not be exactly 0 for a copy.
        """
        return torch.stack([(x - self.reference[column]).norm(dim=1) for column in positions.unbind(1)], 1)


def nearest(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distance [N] of images [N, …] to the nearest of `reference` [M, …], and its position [N]."""
    distances, positions = Neighbours(reference.flatten(1)).search(images.flatten(1))
    return distances[:, 0], positions[:, 0]
