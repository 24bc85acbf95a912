"""The autoencoder's loss is the lecture's formula, term by term."""

from functools import partial

import pytest
import torch

from aectl.data.noise import Masking
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Batch, Stage
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.penalty import KL, L1
from aectl.rng import Rng

SHAPE = (1, 8, 8)
dense = (partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16]))


def loss_of(model, batch, rng=None):
    (loss,) = model.losses(batch, Stage(), rng or Rng(0))
    return loss


def test_mse_is_summed_over_pixels_and_averaged_over_the_batch(batch):
    model = Autoencoder(SHAPE, 4, *dense)
    error = (batch.x - model.reconstruct(batch.x)).square().sum() / 32
    assert torch.allclose(loss_of(model, batch).value, error)


def test_bce_is_the_cross_entropy_in_nats(batch):
    model = Autoencoder(SHAPE, 4, *dense, loss="bce", output="sigmoid")
    p = model.reconstruct(batch.x)
    entropy = -(batch.x * p.log() + (1 - batch.x) * (1 - p).log()).sum() / 32
    assert torch.allclose(loss_of(model, batch).value, entropy, rtol=1e-5)


def test_denoising_corrupts_the_input_and_compares_with_the_clean_image(batch):
    model = Autoencoder(SHAPE, 4, *dense, noise=Masking(0.5))
    noisy = model.noise(batch.x, Rng(7))
    expected = (batch.x - model.reconstruct(noisy)).square().sum() / 32
    assert torch.allclose(loss_of(model, batch, Rng(7)).value, expected)


def test_l1_penalty_is_added_and_named(batch):
    model = Autoencoder(SHAPE, 100, *dense, penalty=L1(0.3))
    loss = loss_of(model, batch)
    expected = 0.3 * model.encode(batch.x).abs().sum(1).mean()
    assert torch.allclose(loss.metrics["penalty"], expected)
    assert torch.allclose(loss.value, loss.metrics["reconstruction"] + expected)


def test_kl_penalty_is_zero_at_rho_and_the_bernoulli_divergence_elsewhere():
    at_rho, off = torch.full((10, 3), 0.05), torch.full((10, 3), 0.4)
    assert float(KL(1.0, 0.05)(at_rho)) == pytest.approx(0, abs=1e-6)
    from torch.distributions import Bernoulli, kl_divergence

    expected = 3 * kl_divergence(Bernoulli(torch.tensor(0.05)), Bernoulli(torch.tensor(0.4)))
    assert torch.allclose(KL(2.0, 0.05)(off), 2 * expected)


def test_dropout_stands_just_before_the_code_layer_and_only_in_training(batch):
    model = Autoencoder(SHAPE, 4, *dense, code_dropout=0.5)
    rng = Rng(0)
    features = model.encoder.features(batch.x)
    kept = Rng(0).uniform(*features.shape) >= 0.5
    expected = model.encoder.head(features * kept * 2)
    assert torch.allclose(model.drop_and_encode(batch.x, rng), expected)
    plain = Autoencoder(SHAPE, 4, *dense)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.encode(batch.x), plain.encode(batch.x))


def test_tied_weights_are_one_tensor_and_stay_so(batch):
    model = Autoencoder(SHAPE, 4, *dense, tied=True)
    assert sum(p.numel() for p in model.parameters()) == 64 * 16 + 16 + 16 * 4 + 4 + 16 + 64
    loss_of(model, batch).value.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.encoder.head[0].weight is model.decoder.layers[0].weight


@pytest.mark.parametrize("side", [(8, 8), (28, 28), (5, 7), (9, 4)])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("colours", [1, 3])
def test_convolutions_fit_every_image_size(side, pool, colours):
    shape = (colours, *side)
    model = Autoencoder(shape, 4, partial(ConvEncoder, channels=[2, 3], pool=pool), partial(ConvDecoder, channels=[3]))
    x = torch.zeros(2, *shape)
    assert model.reconstruct(x).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mae"}, "loss must be mse or bce"),
        ({"loss": "bce"}, "needs output=sigmoid"),
        ({"output": "softmax"}, "unknown activation 'softmax'"),
        ({"code_dropout": 1.0}, r"code_dropout must lie in \[0, 1\)"),
        ({"code": 0}, "code must be at least 1, not 0"),
        ({"encoder": partial(DenseEncoder, widths=[0])}, "widths must be at least 1"),
        ({"encoder": partial(ConvEncoder, channels=[2]), "tied": True}, "tied weights need"),
        ({"decoder": partial(DenseDecoder, widths=[7]), "tied": True}, "tied weights need"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    settings = {"code": 4, "encoder": dense[0], "decoder": dense[1], **arguments}
    with pytest.raises(ValueError, match=message):
        Autoencoder(SHAPE, **settings)


def test_batches_carry_labels_but_the_loss_ignores_them(batch):
    model = Autoencoder(SHAPE, 4, *dense)
    unlabelled = Batch(batch.x, torch.full((32,), -1), batch.index)
    assert torch.equal(loss_of(model, batch).value, loss_of(model, unlabelled).value)
