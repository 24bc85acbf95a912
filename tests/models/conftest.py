"""Small models of every family, for 8×8 images."""

from functools import partial

import pytest
import torch

from aectl.data.noise import Gaussian
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Batch
from aectl.models.gan import GAN
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.penalty import L1
from aectl.models.vae import VAE

SHAPE = (1, 8, 8)
encoder = partial(DenseEncoder, widths=[16])
decoder = partial(DenseDecoder, widths=[16])

MODELS = {
    "autoencoder": lambda: Autoencoder(SHAPE, 4, encoder, decoder),
    "bce": lambda: Autoencoder(SHAPE, 4, encoder, decoder, loss="bce", output="sigmoid"),
    "conv": lambda: Autoencoder(SHAPE, 4, partial(ConvEncoder, channels=[2, 3]), partial(ConvDecoder, channels=[3, 2])),
    "batch_norm": lambda: Autoencoder(SHAPE, 4, partial(encoder, norm="batch"), partial(decoder, norm="batch")),
    "everything": lambda: Autoencoder(
        SHAPE, 70, encoder, decoder, noise=Gaussian(), penalty=L1(0.1), code_dropout=0.5, tied=True
    ),
    "vae": lambda: VAE(SHAPE, 3, encoder, decoder),
    "vae_gaussian": lambda: VAE(SHAPE, 3, encoder, decoder, likelihood="gaussian", noise=Gaussian()),
    "gan": lambda: GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder),
    "wgan_gp": lambda: GAN(SHAPE, 3, decoder, encoder, loss="wgan_gp", noise=Gaussian()),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


@pytest.fixture
def batch():
    x = torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(32) % 10, torch.arange(32))
