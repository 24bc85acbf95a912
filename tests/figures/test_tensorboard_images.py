"""Pictures for every epoch of training."""

import pytest
import torch

from aectl.data.torchvision_shim import torchvision
from aectl.sampling import logged_images
from aectl.tensorboard import images as live


@pytest.mark.parametrize(("count", "columns", "shape"), [(10, 4, (1, 5, 7)), (3, 8, (3, 6, 6)), (8, 4, (1, 28, 28))])
def test_the_grid_is_torchvisions(count, columns, shape):
    images = torch.rand(count, *shape)
    theirs = torchvision().utils.make_grid(images, nrow=columns, padding=1, pad_value=1.0)[: shape[0]]
    ours = live.make_grid(images, columns)
    factor = ours.shape[1] // theirs.shape[1]
    assert torch.equal(ours[:, ::factor, ::factor], theirs)


@pytest.mark.parametrize(
    ("shape", "shown"), [((1, 1, 1024), (1, 128)), ((3, 512, 256), (128, 64)), ((1, 90, 3), (90, 3))]
)
def test_large_images_are_shrunk_and_cut_out_again(shape, shown):
    images = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, *shape)
    sheet = live.make_grid(images, 3)
    assert max(sheet.shape) <= 3 * 57 * max(shown)
    found = logged_images.split_sheet(
        (sheet * 255).round().byte().permute(1, 2, 0).numpy().repeat(4 - shape[0], 2)[..., :3], shape
    )
    assert found.shape == (2, 3, shape[0], *shown)
    assert torch.allclose(found.flatten(0, 1).mean((1, 2, 3)), images.mean((1, 2, 3)), atol=3e-3)
