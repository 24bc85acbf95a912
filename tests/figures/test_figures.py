"""Every figure is drawn, is not blank, and leaves the model as it was."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian
from aectl.evaluation.codes import active_latents
from aectl.figures import codes, examples, image_grids, style
from aectl.figures.curves import learning_curves
from aectl.figures.model_figures import code_figures, draw
from aectl.figures.style import save
from aectl.models.autoencoder import Autoencoder
from aectl.models.gan import GAN
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.tensorboard.images import draw_pictures

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
CASES = [*((name, (1, 8, 8)) for name in MODELS), ("vae", (1, 28, 28)), ("vae", (3, 12, 10)), ("dae", (3, 12, 10))]
"""Every model for the smallest images, and other sizes and colours for those that have all pictures between them."""
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


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures are drawn with a quarter of the dots, in half the time."""
    monkeypatch.setattr(style, "DPI", 75)


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(*case, marks=pytest.mark.slow if case in (CASES[6], CASES[8]) else ()) for case in CASES],
)
def test_a_report_draws_what_the_model_can_do(tmp_path, name, shape):
    make, abilities = MODELS[name]
    torch.manual_seed(0)
    model = make(shape).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    paths = draw(model, source(shape), tmp_path)
    assert {p.stem for p in paths} >= set().union(*(IN_A_REPORT[a] for a in abilities))
    assert all(is_drawn(path) for path in paths)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_live_pictures_follow_the_abilities_and_repeat(name, shape):
    make, abilities = MODELS[name]
    torch.manual_seed(0)
    model = make(shape).train()
    first, second = draw_pictures(model, source(shape)), draw_pictures(model, source(shape))
    assert set(first) == abilities
    for key, picture in first.items():
        assert picture.dim() == 3
        assert 0 <= picture.min() < picture.max() <= 1
        assert torch.equal(picture, second[key])
    assert all(part.training for part in model.modules())


def test_noise_gets_a_row_of_its_own():
    shape = (1, 8, 8)
    noisy = draw_pictures(MODELS["dae"][0](shape), source(shape))["reconstruction"]
    clean = draw_pictures(MODELS["conv"][0](shape), source(shape))["reconstruction"]
    assert noisy.shape[1] > clean.shape[1]


def test_learning_curves_are_drawn_over_stages(tmp_path):
    rows = ["epoch,stage,train/loss,val/loss,lr,seconds", "1,a,3,4,0.1,1", "2,a,2,3,0.1,1", "3,b,1,2,0.1,1"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    model = MODELS["conv"][0]((1, 8, 8))
    paths = draw(model, source((1, 8, 8)), tmp_path / "figures", metrics_csv=tmp_path / "metrics.csv")
    assert is_drawn(next(p for p in paths if p.stem == "learning_curves"))


def test_a_grid_that_is_not_full_is_padded(tmp_path):
    path = save(image_grids.image_grid(torch.rand(7, 1, 8, 8), 2, "seven"), tmp_path / "grid.png")
    assert is_drawn(path)


def test_filters_are_of_the_layer_that_sees_the_pixels():
    # The generator's code is as wide as the image: its first layer must not be taken for the one that sees pixels.
    gan = GAN((1, 8, 8), 64, decoder, encoder)
    weights = gan.discriminator.body[1].weight[:5].detach().view(-1, 1, 8, 8)
    largest = weights.abs().amax((1, 2, 3), keepdim=True)
    tiles = examples.filter_tiles(gan, (1, 8, 8), 5)
    assert torch.allclose((tiles - 0.5) * 2 * largest, weights, atol=1e-6)
    convolution_as_wide = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Flatten(), nn.Linear(64, 2))
    assert examples.filter_tiles(convolution_as_wide, (1, 8, 8)) is None
    assert image_grids.filters(convolution_as_wide, (1, 8, 8)) is None


def test_examples_are_one_of_each_class_and_then_the_first():
    labels = torch.tensor([1, 1, 0, -1, 2, 0] + [1] * 34)
    data = source((1, 8, 8))
    data = Source(data.images, labels, data.index, data.scale, data.classes)
    assert torch.equal(examples.examples(data, 5), data.pixels()[[2, 0, 4, 1, 3]])
    assert len(examples.examples(source((1, 8, 8), n=3), 10)) == 3


def test_looking_leaves_every_part_in_its_own_mode():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    model[0].eval()
    with pytest.raises(RuntimeError, match="stop"), examples.evaluation_mode(model):
        assert not model[1].training
        assert not torch.is_grad_enabled()
        raise RuntimeError("stop")
    assert [part.training for part in model] == [False, True]
    assert torch.is_grad_enabled()


def test_of_a_posterior_the_latents_whose_means_vary_are_counted_as_in_the_table(monkeypatch):
    vae = VAE((1, 8, 8), 4, encoder, decoder).eval()
    means = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.02, 2.0, 0.05, 1.0])
    monkeypatch.setattr(vae, "posterior", lambda x: (means[: len(x)], means[: len(x)]))
    with torch.no_grad():
        titles = {name: figure.axes[0].get_title(loc="left") for name, figure in code_figures(vae, source((1, 8, 8)))}
    assert titles["unit_activity"] == "Active latents: 2 of 4, over 40 images"
    assert active_latents(means) == 2


def test_wide_codes_are_shown_by_their_principal_components():
    spread = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 3.0])
    points, names = codes.project_to_plane(spread)
    assert torch.allclose(points.float()[:, 0], spread[:, 1] - spread[:, 1].mean(), atol=1)
    assert "principal component 1" in names[0]
    assert "9" in names[0].split("(")[1]
    assert codes.project_to_plane(spread[:, :2])[1] == ("first coordinate of the code", "second coordinate of the code")


def test_codes_without_spread_labels_or_room_for_them(tmp_path):
    drawn = {
        "dead": codes.code_histogram(torch.zeros(5, 3)),
        "idle": codes.unit_activity(torch.zeros(5, 3)),
        "uninformed": codes.latent_activity(torch.zeros(5, 3)),
        "unlabelled": codes.code_scatter(torch.rand(9, 5), torch.full((9,), -1), "no labels"),
        "crowd": codes.code_scatter(torch.rand(99, 2), torch.arange(99), "too many classes to name"),
        "collapsed": codes.code_scatter(torch.zeros(9, 4), torch.arange(9), "all codes alike"),
    }
    for name, figure in drawn.items():
        assert is_drawn(save(figure, tmp_path / f"{name}.png")), name
    with pytest.raises(ValueError, match="at least 2"):
        codes.code_scatter(torch.rand(3, 1), torch.arange(3), "a line")


def test_learning_curves_bear_missing_values_but_not_a_run_without_epochs(tmp_path):
    table = tmp_path / "metrics.csv"
    table.write_text("epoch,stage,train/loss,val/loss,train/late\n1,a,3.0,nan,\n2,b,2.0,2.5,5.0\n")
    assert [axes.get_title(loc="left") for axes in learning_curves(table).axes] == ["loss", "late"]
    table.write_text("epoch,stage,train/loss\n")
    with pytest.raises(ValueError, match="no finished epoch"):
        learning_curves(table)


def test_samples_are_shown_from_the_highest_score_to_the_lowest():
    scores = torch.linspace(0, 1, 100)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    figure = image_grids.ranked_samples(scores.view(-1, 1, 1, 1).expand(-1, 1, 8, 8), scores, "title")
    (axes,) = figure.axes
    pixels = axes.images[0].get_array()
    shown = torch.from_numpy(pixels[::9, ::9, 0]).flatten()
    order = scores.sort(descending=True).values
    assert torch.allclose(shown, torch.cat([order[:30], scores[:30], order[-30:]]))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[::3] == [
        "highest\n1.000 … 0.7071",
        "random\n0.9798 … 0.08081",
        "lowest\n0.2929 … 0",
    ]
    few = image_grids.ranked_samples(torch.rand(4, 3, 8, 8), torch.rand(4), "few")
    assert few.axes[0].images[0].get_array().shape[:2] == (3 * 9 - 1, 4 * 9 - 1)
