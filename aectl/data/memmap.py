"""Images that stay in their file, so that there may be more of them than memory holds.

The file is mapped, read-only: a map that copies on writing is refused for a file larger than memory. The system keeps
of it what fits, and takes that back when memory is wanted elsewhere. The file must not change meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

PIECE = 5000
"""Images at a time, where all of them are gone through."""
SHARE = 0.5
"""Images move to a GPU that has so much of its free memory for them; the rest is for what is computed."""
TYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32}
"""Numbers that can be taken as they are in the file."""


def can_stay(images: np.ndarray) -> bool:
    """Return whether images are in a mapped file and can stay there: bytes or floats, one image behind the other."""
    return isinstance(images, np.memmap) and images.flags.c_contiguous and images.dtype in TYPES


class Mapped:
    """Some of the images of a file, which are gathered when they are asked for: in the place of a tensor [N, C, H, W].

    `file` is the whole file's array [M, C, H, W], `rows` [N], int64, which of its images these are, None for all of
    them; `device` is where they come to. It has of a tensor what a `Source` needs. Choosing some costs 8 bytes each.
    """

    def __init__(self, file: np.ndarray, rows: Tensor | None = None, device: torch.device | str = "cpu") -> None:
        # A memmap makes another memmap of each batch, which takes longer.
        self.file, self.device = np.asarray(file), torch.device(device)
        self.rows = torch.arange(len(file)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        return torch.Size((len(self), *self.file.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """uint8 or float32."""
        return TYPES[self.file.dtype]

    @property
    def nbytes(self) -> int:
        """How much memory all of them would take."""
        return self.shape.numel() * self.file.itemsize

    def index_select(self, dim: int, indices: Tensor) -> Tensor:
        """Return the images at `indices` [n], on any device, as a tensor [n, C, H, W]; `dim` is 0."""
        images = torch.from_numpy(np.ascontiguousarray(self.file[self.rows[indices.cpu()].numpy()]))
        if self.device.type == "cuda":
            # From memory that the system cannot move the copy goes on by itself.
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)

    def take(self, indices: Tensor) -> Mapped:
        """Return the images at `indices` [n] alone; none is read."""
        return Mapped(self.file, self.rows[indices.cpu()], self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all of them in order, `size` at a time."""
        for indices in torch.arange(len(self)).split(size):
            yield self.index_select(0, indices)

    def float(self) -> Tensor:
        """Return all of them as floats [N, C, H, W], in memory."""
        return self.all(torch.float32)

    def to(self, device: torch.device | str) -> Mapped | Tensor:
        """Return them as a tensor on a GPU that has the room, else the same images, which come there when asked for."""
        there = Mapped(self.file, self.rows, device)
        return there.all(self.dtype) if self.nbytes < SHARE * free_bytes(there.device) else there

    def all(self, dtype: torch.dtype) -> Tensor:
        """Return all of them as a tensor [N, C, H, W] of numbers of a type."""
        found = torch.empty(self.shape, dtype=dtype, device=self.device)
        for place, piece in zip(found.split(PIECE), self.split(PIECE), strict=True):
            place.copy_(piece)
        return found


def free_bytes(device: torch.device) -> int:
    """Return how much memory a GPU has left; 0 where it is the CPU's, which holds the file already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0
