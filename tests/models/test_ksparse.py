"""Codes of which the k largest units are kept."""

from functools import partial

import pytest
import torch

from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Stage
from aectl.models.networks import ConvEncoder, DenseDecoder, DenseEncoder, TopK
from aectl.rng import Rng

SHAPE = (1, 8, 8)


def ksparse(k=3, alpha=1.0, code=20, **settings):
    torch.manual_seed(0)
    encoder = partial(DenseEncoder, code_activation=TopK(k, alpha))
    return Autoencoder(SHAPE, code, encoder, DenseDecoder, tied=True, **settings)


def test_the_largest_are_kept_as_they_are_and_the_others_are_0():
    h = torch.tensor([[3.0, -1.0, 2.0, -5.0], [-4.0, -3.0, -2.0, -1.0]])
    assert torch.equal(TopK(2)(h), torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, -2.0, -1.0]]))
    random = Rng(0).normal(50, 30)
    kept = TopK(7)(random)
    assert torch.equal((kept != 0).sum(1), torch.full((50,), 7))
    assert torch.equal(kept, torch.where(random >= random.sort(1).values[:, -7:-6], random, 0))


def test_outside_of_training_there_are_alpha_times_as_many():
    layer, h = TopK(5, alpha=2.5), Rng(0).normal(4, 40)
    assert (layer.train()(h) != 0).sum(1).tolist() == [5] * 4
    assert (layer.eval()(h) != 0).sum(1).tolist() == [12] * 4
    assert (TopK(5, alpha=100).eval()(h) != 0).all()


def test_gradients_flow_through_what_is_kept():
    h = Rng(0).normal(6, 10).requires_grad_()
    out = TopK(4)(h)
    weights = Rng(1).normal(6, 10)
    (out * weights).sum().backward()
    assert torch.equal(h.grad, torch.where(out != 0, weights, 0))


def test_the_loss_is_of_the_k_strongest_units_through_tied_weights(batch):
    model = ksparse(3)
    w, b = model.encoder.head[0].weight, model.encoder.head[0].bias
    z = batch.x.flatten(1) @ w.T + b
    z = torch.where(z >= z.sort(1).values[:, -3:-2], z, 0)
    expected = (batch.x.flatten(1) - z @ w - model.decoder.layers[0].bias).square().sum() / 32
    (loss,) = model.losses(batch, Stage(), Rng(0))
    assert torch.allclose(loss.value, expected, rtol=1e-5)


def test_codes_of_a_trained_model_are_as_sparse_as_alpha_says(batch):
    model = ksparse(3, alpha=2.0).eval()
    assert (model.encode(batch.x) != 0).sum(1).tolist() == [6] * 32
    assert torch.isfinite(model.validate(batch, Rng(0))["loss"])


def test_any_encoder_takes_it_and_dropout_stands_before_it(batch):
    for encoder in (partial(ConvEncoder, channels=[2]), partial(DenseEncoder, widths=[16])):
        model = Autoencoder(
            SHAPE, 20, partial(encoder, code_activation=TopK(4)), partial(DenseDecoder, widths=[16]), code_dropout=0.5
        )
        assert ((model.drop_and_encode(batch.x, Rng(0)) != 0).sum(1) <= 4).all()
        assert (model.encode(batch.x) != 0).sum(1).tolist() == [4] * 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"k": 2, "alpha": 0.5}, "alpha must be a finite number ≥ 1"),
        ({"k": 2, "alpha": float("nan")}, "alpha must be a finite number ≥ 1"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TopK(**settings)


def test_more_units_than_the_code_has_are_refused_in_training_and_after(batch):
    for mode in (True, False):
        with pytest.raises(ValueError, match="k must be at most the 20 units of the code, not 21"):
            ksparse(21).train(mode).encode(batch.x)
