"""Pictures for every epoch of training."""

import pytest
import torch

from aectl.data.torchvision_shim import torchvision
from aectl.figures import live


@pytest.mark.parametrize(("count", "columns", "shape"), [(10, 4, (1, 5, 7)), (3, 8, (3, 6, 6)), (8, 4, (1, 28, 28))])
def test_the_grid_is_torchvisions(count, columns, shape):
    images = torch.rand(count, *shape)
    theirs = torchvision().utils.make_grid(images, nrow=columns, padding=1, pad_value=1.0)[: shape[0]]
    ours = live.grid(images, columns)
    factor = ours.shape[1] // theirs.shape[1]
    assert torch.equal(ours[:, ::factor, ::factor], theirs)
