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
    MinibatchStd,
    ResizeDecoder,
    StridedEncoder,
    has_batch_statistics,
)
from aectl.rng import Rng

ENCODERS = (
    partial(DenseEncoder, widths=[16]),
    partial(ConvEncoder, channels=[4, 6]),
    partial(StridedEncoder, channels=[4, 6]),
    partial(StridedEncoder, channels=[4, 6], residual=True),
)
DECODERS = (
    partial(DenseDecoder, widths=[16]),
    partial(ConvDecoder, channels=[6, 4]),
    partial(ResizeDecoder, channels=[6, 4]),
    partial(ResizeDecoder, channels=[6, 4], residual=True),
)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 50), (2, 1, 3)])
def test_images_of_any_size_are_encoded_and_decoded(shape, residual):
    x = Rng(0).uniform(6, *shape)
    encoder = StridedEncoder(shape, 5, (4, 6, 8), residual=residual, minibatch_std=True)
    decoder = ResizeDecoder(shape, 5, (8, 6, 4), norm="batch", residual=residual)
    z = encoder(x)
    assert z.shape == (6, 5)
    assert torch.equal(encoder.head(encoder.features(x)), z)
    assert decoder(z).shape == x.shape
    for network, loss in ((encoder, z.square().sum()), (decoder, decoder(z.detach()).square().sum())):
        loss.backward()
        assert all(
            float(weight.grad.abs().max()) > 0 for name, weight in network.named_parameters() if "bias" not in name
        )


def test_residual_blocks_are_the_sum_of_two_paths():
    torch.manual_seed(0)
    encoder, decoder = ENCODERS[3]((1, 8, 8), 3), DECODERS[3]((1, 8, 8), 3)
    block, x = encoder.body[0], Rng(0).uniform(2, 1, 8, 8)
    by_hand = block.body(x) + nn.functional.conv2d(
        nn.functional.avg_pool2d(x, 2), block.shortcut[1].weight, block.shortcut[1].bias
    )
    torch.testing.assert_close(block(x), by_hand)
    block, x = decoder.body[0], Rng(0).uniform(2, 6, 4, 4)
    larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(x), block.body(x) + block.shortcut[0](larger))


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
        (partial(ResizeDecoder, channels=[0]), "channels must be at least 1"),
        (partial(ResizeDecoder, channels=[]), "channels needs"),
        (partial(StridedEncoder, norm="layer"), "norm must be none, batch or spectral, not 'layer'"),
        (partial(ResizeDecoder, activation="sine"), "unknown activation 'sine'"),
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
