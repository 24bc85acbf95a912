"""Every figure is drawn, is not blank, and leaves the model as it was."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian
from aectl.figures import images
from aectl.figures.live import pictures
from aectl.figures.report import draw
from aectl.figures.style import save
from aectl.models.autoencoder import Autoencoder
from aectl.models.gan import GAN
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.vae import VAE

encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])
conv = partial(ConvEncoder, channels=[2]), partial(ConvDecoder, channels=[2])

MODELS = {
    "dae": (lambda s: Autoencoder(s, 5, encoder, decoder, noise=Gaussian()), {"reconstruction", "filters"}),
    "plane": (lambda s: Autoencoder(s, 2, encoder, decoder), {"reconstruction", "filters", "latent_grid"}),
    "one_unit": (lambda s: Autoencoder(s, 1, encoder, decoder), {"reconstruction", "filters"}),
    "conv": (lambda s: Autoencoder(s, 5, *conv), {"reconstruction"}),
    "vae": (lambda s: VAE(s, 2, encoder, decoder), {"reconstruction", "samples", "filters", "latent_grid"}),
    "gan": (lambda s: GAN(s, 3, partial(decoder, norm="batch"), encoder), {"samples", "filters"}),
}
IN_A_REPORT = {
    "reconstruction": {"reconstructions", "interpolations", "code_histogram", "unit_activity"},
    "samples": {"samples", "interpolations"},
    "filters": {"filters"},
    "latent_grid": {"latent_grid"},
}


def source(shape, n=40):
    data = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Source(data, torch.arange(n) % 10, torch.arange(n), scale=1 / 255, classes=10)


def is_drawn(path):
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    return min(pixels.shape) > 100 and pixels.std() > 5


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_report_draws_what_the_model_can_do(tmp_path, name, shape):
    make, abilities = MODELS[name]
    torch.manual_seed(0)
    model = make(shape).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    paths = draw(model, source(shape), tmp_path)
    assert {p.stem for p in paths} >= set().union(*(IN_A_REPORT[a] for a in abilities))
    assert all(is_drawn(path) for path in paths)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_live_pictures_follow_the_abilities_and_repeat(name, shape):
    make, abilities = MODELS[name]
    torch.manual_seed(0)
    model = make(shape).train()
    first, second = pictures(model, source(shape)), pictures(model, source(shape))
    assert set(first) == abilities
    for key, picture in first.items():
        assert picture.dim() == 3
        assert 0 <= picture.min() < picture.max() <= 1
        assert torch.equal(picture, second[key])
    assert all(part.training for part in model.modules())


def test_noise_gets_a_row_of_its_own():
    shape = (1, 8, 8)
    noisy = pictures(MODELS["dae"][0](shape), source(shape))["reconstruction"]
    clean = pictures(MODELS["conv"][0](shape), source(shape))["reconstruction"]
    assert noisy.shape[1] > clean.shape[1]


def test_learning_curves_are_drawn_over_stages(tmp_path):
    rows = ["epoch,stage,train/loss,val/loss,lr,seconds", "1,a,3,4,0.1,1", "2,a,2,3,0.1,1", "3,b,1,2,0.1,1"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    model = MODELS["conv"][0]((1, 8, 8))
    paths = draw(model, source((1, 8, 8)), tmp_path / "figures", metrics_csv=tmp_path / "metrics.csv")
    assert is_drawn(next(p for p in paths if p.stem == "learning_curves"))


def test_a_grid_that_is_not_full_is_padded(tmp_path):
    path = save(images.image_grid(torch.rand(7, 1, 8, 8), 2, "seven"), tmp_path / "grid.png")
    assert is_drawn(path)
