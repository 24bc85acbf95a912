"""Memory-mapped images, for files larger than memory.

The mapping is read-only: a copy-on-write mapping is refused for files larger than memory. The operating system caches
pages of the file while memory is free. The file must not change while it is mapped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

PIECE_IMAGES = 5000
"""Images read at a time when all of them are processed."""
GPU_MEMORY_SHARE = 0.5
"""Images are copied to a GPU if they take less than this share of its free memory."""
TYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32}
"""Types that need no conversion."""


def can_map(images: np.ndarray) -> bool:
    """Return whether images are memory-mapped, contiguous and of a type that needs no conversion."""
    return isinstance(images, np.memmap) and images.flags.c_contiguous and images.dtype in TYPES


class MappedImages:
    """Images of a memory-mapped file, with the part of the interface of a tensor [N, C, H, W] that `Source` needs.

    `file` is the array [M, C, H, W] of the whole file, `rows` [N], int64, are the selected images (None: all), and
    `device` is where selected images are copied to. A selection takes 8 bytes per image.
    """

    def __init__(self, file: np.ndarray, rows: Tensor | None = None, device: torch.device | str = "cpu") -> None:
        # Indexing a memmap creates a memmap for every batch, which is slower than indexing an array.
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
        """Size of all images in bytes."""
        return self.shape.numel() * self.file.itemsize

    def index_select(self, dim: int, indices: Tensor) -> Tensor:
        """Return the images at `indices` [n], on any device, as a tensor [n, C, H, W]; `dim` is 0."""
        images = torch.from_numpy(np.ascontiguousarray(self.file[self.rows[indices.cpu()].numpy()]))
        if self.device.type == "cuda":
            # Copies from pinned memory run asynchronously.
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)

    def take(self, indices: Tensor) -> MappedImages:
        """Return only the images at `indices` [n], without reading any."""
        return MappedImages(self.file, self.rows[indices.cpu()], self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, `size` at a time."""
        for indices in torch.arange(len(self)).split(size):
            yield self.index_select(0, indices)

    def float(self) -> Tensor:
        """Return all images as a float tensor [N, C, H, W]."""
        return self.all(torch.float32)

    def to(self, device: torch.device | str) -> MappedImages | Tensor:
        """Return a tensor if `device` is a GPU with enough free memory, else memory-mapped images for that device."""
        there = MappedImages(self.file, self.rows, device)
        return there.all(self.dtype) if self.nbytes < GPU_MEMORY_SHARE * count_free_bytes(there.device) else there

    def all(self, dtype: torch.dtype) -> Tensor:
        """Return all images as a tensor [N, C, H, W] of the given dtype."""
        found = torch.empty(self.shape, dtype=dtype, device=self.device)
        for place, piece in zip(found.split(PIECE_IMAGES), self.split(PIECE_IMAGES), strict=True):
            place.copy_(piece)
        return found


def count_free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes; 0 for the CPU, where images stay memory-mapped."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0
