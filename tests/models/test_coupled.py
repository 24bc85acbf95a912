"""A classifier with a reconstruction term: without weight the plain one, with it a learner from unlabelled images."""

from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian
from aectl.models.base import Batch, Classifies, Decodes, Encodes, Reconstructs, Stage
from aectl.models.classifier import Classifier, cross_entropy
from aectl.models.coupled import Coupled
from aectl.models.networks import ConvEncoder, DenseDecoder, DenseEncoder
from aectl.rng import Rng
from aectl.training.device import Device
from aectl.training.schedule import Cosine
from aectl.training.trainer import Trainer

SHAPE = (1, 8, 8)
ENCODERS = {
    "dense": partial(DenseEncoder, widths=[16], norm="batch", code_activation="relu"),
    "conv": partial(ConvEncoder, channels=[3], code_activation="tanh"),
}
decoder = partial(DenseDecoder, widths=[16])


def coupled(weight=0.1, encoder=ENCODERS["dense"], **settings):
    torch.manual_seed(0)
    return Coupled(SHAPE, 10, 5, encoder, decoder, weight=weight, **settings)


def trained(model, folder, labels=96, epochs=3, rate=0.01, **more):
    images = torch.randint(0, 256, (128, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = Source(images, torch.arange(128) % 10, torch.arange(128), scale=1 / 255, classes=10)
    train, valid = whole.take(torch.arange(96)), whole.take(torch.arange(96, 128))
    train.labels[labels:] = -1
    settings = {
        "schedule": Cosine(),
        "device": Device("cpu", threads=1),
        "epochs": epochs,
        "batch_size": 16,
        "seed": 1,
        **more,
    }
    trainer = Trainer(model, train, valid, partial(torch.optim.Adam, lr=rate), folder=folder, **settings)
    assert trainer.fit() is None
    return trainer.model


def loss_of(model, batch, rng=None):
    (loss,) = model.losses(batch, Stage(), rng or Rng(0))
    return loss


def test_it_encodes_decodes_and_classifies(batch):
    model = coupled().eval()
    assert all(isinstance(model, ability) for ability in (Encodes, Decodes, Reconstructs, Classifies))
    assert model.encode(batch.x).shape == (32, 5)
    assert model.classify(batch.x).shape == (32, 10)
    images = model.reconstruct(batch.x)
    assert images.shape == batch.x.shape
    assert 0 < images.min() < images.max() < 1


@pytest.mark.parametrize("labels", [96, 9])
@pytest.mark.parametrize("grad_clip", [None, 0.1])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_with_weight_0_it_is_the_classifier_to_the_bit(tmp_path, encoder, grad_clip, labels):
    how = {"labels": labels, "grad_clip": grad_clip}
    settings = {"noise": Gaussian(0.3), "smoothing": 0.1}
    torch.manual_seed(0)
    plain = trained(Classifier(SHAPE, 10, 5, ENCODERS[encoder], **settings), tmp_path / "plain", **how)
    own = trained(coupled(0.0, ENCODERS[encoder], **settings), tmp_path / "coupled", **how).state_dict()
    assert {name for name in own if name not in plain.state_dict()} == {n for n in own if n.startswith("decoder.")}
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    # With a weight it is not.
    other = trained(coupled(0.1, ENCODERS[encoder], **settings), tmp_path / "other", **how).state_dict()
    assert not torch.equal(other["head.weight"], own["head.weight"])


def test_the_loss_is_of_labelled_images_and_the_reconstruction_of_all(batch):
    model = coupled(0.3, noise=Gaussian(0.5)).eval()
    y = batch.y.clone()
    y[5:] = -1
    seen = Gaussian(0.5)(batch.x, Rng(7))
    p = model.classify(seen)[:5].softmax(1)[torch.arange(5), y[:5]]
    image = (batch.x - model.reconstruct(seen)).square().sum() / 32
    loss = loss_of(model, batch._replace(y=y), Rng(7))
    assert torch.allclose(loss.value, -p.log().mean() + 0.3 * image)
    assert torch.allclose(loss.metrics["reconstruction"], image)
    assert set(loss.metrics) == {"classification", "reconstruction", "error"}


def test_a_batch_without_any_label_moves_the_autoencoder_and_not_the_head(batch):
    model = coupled()
    loss = loss_of(model, Batch(batch.x, torch.full((32,), -1), batch.index))
    loss.value.backward()
    assert float(loss.metrics["classification"].detach()) == 0
    assert model.head.weight.grad.eq(0).all()
    for part in (model.encoder, model.decoder):
        assert all(torch.isfinite(p.grad).all() for p in part.parameters())
        assert all(p.grad.any() for p in part.parameters() if p.dim() > 1)


def test_a_classifier_survives_batches_without_a_label(tmp_path):
    torch.manual_seed(0)
    model = trained(Classifier(SHAPE, 10, 5, ENCODERS["conv"]), tmp_path, labels=1)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_the_cross_entropy_is_torchs_mean_over_labelled_images():
    logits, y = Rng(0).normal(9, 4), torch.tensor([0, 3, -1, 2, -1, 1, 1, -1, 0])
    for smoothing in (0.0, 0.2):
        expected = torch.nn.functional.cross_entropy(logits, y, ignore_index=-1, label_smoothing=smoothing)
        assert torch.allclose(cross_entropy(logits, y, smoothing), expected)
    assert float(cross_entropy(logits, torch.full((9,), -1))) == 0


def test_unlabelled_images_teach_the_code(tmp_path):
    """Of 96 images 4 have a label; the others are brought back far better if they count."""
    x = (torch.randint(0, 256, (96, *SHAPE), generator=torch.Generator().manual_seed(0)) / 255).float()
    batch = Batch(x, torch.full((96,), -1), torch.arange(96))
    models = [trained(coupled(weight), tmp_path / str(weight), 4, 20).eval() for weight in (0.0, 1.0)]
    with torch.no_grad():
        ignored, used = (model.validate(batch, Rng(0))["mse"] for model in models)
    assert used < 0.8 * ignored


def test_validation_is_of_clean_images_and_changes_nothing(batch):
    model = coupled(0.3, noise=Gaussian(0.5), smoothing=0.1).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = model.validate(batch, Rng(0))
    assert torch.equal(metrics["error"].value, (model.classify(batch.x).argmax(1) != batch.y).float().mean())
    assert torch.allclose(metrics["mse"], (model.reconstruct(batch.x) - batch.x).square().mean())
    expected = torch.nn.functional.cross_entropy(model.classify(batch.x), batch.y)
    assert torch.allclose(metrics["loss"], expected + 0.3 * 64 * metrics["mse"], rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_weight_is_a_buffer_that_is_not_stored():
    model = coupled(0.25)
    assert model.weight.dim() == 0
    assert "weight" not in model.state_dict()


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match="weight must be a finite number ≥ 0"):
        coupled(weight)
