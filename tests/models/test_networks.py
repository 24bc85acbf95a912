"""Networks take images of any size, and their norms and statistics are the formulas."""

from functools import partial

import pytest
import torch
from torch import nn

from aectl.models.autoencoder import Autoencoder
from aectl.models.networks import (
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
    FoldPixels,
    MinibatchStd,
    StridedEncoder,
    SubpixelDecoder,
    has_batch_statistics,
)
from aectl.rng import Rng

ENCODERS = (
    partial(DenseEncoder, widths=[16]),
    partial(ConvEncoder, channels=[4, 6]),
    partial(StridedEncoder, channels=[4, 6], widths=[5]),
)
DECODERS = (
    partial(DenseDecoder, widths=[16]),
    partial(ConvDecoder, channels=[6, 4]),
    partial(SubpixelDecoder, channels=[6, 4]),
)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 50), (2, 1, 3)])
def test_images_of_any_size_are_encoded_and_decoded(shape):
    x = Rng(0).uniform(6, *shape)
    encoder = StridedEncoder(shape, 5, (4, 6, 8), (7,), minibatch_std=True)
    decoder = SubpixelDecoder(shape, 5, (8, 6, 4), norm="batch")
    z = encoder(x)
    assert z.shape == (6, 5)
    assert torch.equal(encoder.head(encoder.features(x)), z)
    assert decoder(z).shape == x.shape
    for network, loss in ((encoder, z.square().sum()), (decoder, decoder(z.detach()).square().sum())):
        loss.backward()
        # Batch norm removes the means that biases before it change.
        weights = [p for p in network.parameters() if p.dim() > 1]
        assert all(float(weight.grad.abs().max()) > 0 for weight in weights)


def test_squares_of_pixels_become_channels_and_zeros_fill_odd_sizes():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert FoldPixels()(x).tolist() == [[[[0, 2]], [[1, 0]], [[3, 5]], [[4, 0]]]]


@pytest.mark.parametrize("network", [*ENCODERS, *DECODERS])
def test_spectral_norm_makes_the_largest_singular_value_of_every_layer_one(network):
    torch.manual_seed(0)
    made = network((1, 8, 8), 7, norm="spectral")
    shape = (2, 7) if network in DECODERS else (2, 1, 8, 8)
    for _ in range(200):
        made(torch.zeros(shape))
    layers = [one for one in made.modules() if isinstance(one, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
    for layer in layers:
        side = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        largest = torch.linalg.matrix_norm(layer.weight.movedim(side, 0).flatten(1), 2)
        assert float(largest.detach()) == pytest.approx(1, abs=1e-3)


def test_minibatch_std_is_that_of_groups_of_four_averaged_over_features():
    layer, x = MinibatchStd(), Rng(0).normal(8, 3, 2, 2)
    out = layer(x)
    assert torch.equal(out[:, :3], x)
    for group in (slice(4), slice(4, 8)):
        expected = x[group].std(0, correction=0).mean()
        torch.testing.assert_close(out[group, 3], expected.expand(4, 2, 2))
    assert torch.equal(torch.cat([layer(x[:4]), layer(x[4:])]), out)
    same = layer(x[:1].expand(7, -1, -1, -1))
    assert float(same[:, 3].max()) == pytest.approx(0, abs=1.01e-4)
    # Six images: two of the second group are the first two again.
    torch.testing.assert_close(
        layer(x[:6, :, 0, 0])[4:, 3], x[[4, 5, 0, 1], :, 0, 0].std(0, correction=0).mean().expand(2)
    )
    torch.testing.assert_close(layer(x[:2, :, 0, 0])[:, 3], x[:2, :, 0, 0].std(0, correction=0).mean().expand(2))


def test_minibatch_std_has_slopes_of_all_orders_where_images_are_the_same():
    encoder = DenseEncoder((1, 8, 8), 1, [4], "softplus", minibatch_std=True)
    x = torch.ones(4, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(encoder(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in encoder.parameters())


def test_networks_whose_images_depend_on_each_other_are_known():
    for encoder in ENCODERS:
        assert not has_batch_statistics(encoder((1, 8, 8), 1, norm="spectral"))
        assert has_batch_statistics(encoder((1, 8, 8), 1, norm="batch"))
    assert has_batch_statistics(StridedEncoder((1, 8, 8), 1, minibatch_std=True))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (partial(StridedEncoder, channels=[4, 0]), "channels must be at least 1"),
        (partial(StridedEncoder, channels=[]), "channels needs"),
        (partial(StridedEncoder, widths=[0]), "widths must be at least 1"),
        (partial(SubpixelDecoder, channels=[0]), "channels must be at least 1"),
        (partial(SubpixelDecoder, channels=[]), "channels needs"),
        (partial(StridedEncoder, norm="layer"), "norm must be none, batch or spectral, not 'layer'"),
        (partial(SubpixelDecoder, activation="sine"), "unknown activation 'sine'"),
        (
            lambda shape, code: Autoencoder(
                shape, code, partial(DenseEncoder, norm="spectral"), partial(DenseDecoder, norm="spectral"), tied=True
            ),
            "tied weights need norm=none or batch",
        ),
    ],
)
def test_what_cannot_work_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        network((1, 8, 8), 3)
