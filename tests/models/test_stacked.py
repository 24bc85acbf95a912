"""Stacks: each stage moves its own layer, noise stands where it is trained, and the losses are those of the papers."""

from functools import partial

import pytest
import torch
from torch import nn

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian, Jitter, Masking
from aectl.models.base import Classifies, Decodes, Encodes, Loss, Mean, Model, Reconstructs
from aectl.models.stacked import AutoencoderLayer, RBMLayer, Stacked
from aectl.rng import Rng
from aectl.training import checkpoint
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.trainer import Observer, Trainer

SHAPE = (1, 8, 8)
LAYERS = {"tied": AutoencoderLayer, "untied": partial(AutoencoderLayer, tied=False), "rbm": RBMLayer}


def stacked(kind="tied", widths=(12, 6), **settings):
    torch.manual_seed(0)
    return Stacked(SHAPE, 10, list(widths), LAYERS[kind], **{"pretrain_epochs": 1, **settings})


@pytest.fixture
def make_trainer(tmp_path):
    def make(model, folder="checkpoints", labels=96, epochs=2, observers=()):
        labels_of, rng = torch.arange(128) % 10, Rng(0)
        # Each class a pattern of its own, so that there is something to learn.
        images = 0.8 * rng.bernoulli(torch.full((10, *SHAPE), 0.4))[labels_of] + 0.2 * rng.uniform(128, *SHAPE)
        whole = Source(images, labels_of, torch.arange(128), scale=1.0, classes=10)
        train, valid = whole.take(torch.arange(96)), whole.take(torch.arange(96, 128))
        train.labels[labels:] = -1
        settings = {"schedule": Constant(), "device": Device("cpu", threads=1), "batch_size": 32, "seed": 1}
        adam = partial(torch.optim.Adam, lr=1e-3)
        folder = tmp_path / folder
        return Trainer(model, train, valid, adam, folder=folder, epochs=epochs, observers=observers, **settings)

    return make


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


class Recording(nn.Module):
    """A noise that keeps what it is given, and halves it."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, x, rng):
        self.given.append(x.clone())
        return x / 2


def only_loss(model, batch, stage, rng=None):
    (loss,) = model.losses(batch, stage, rng or Rng(0))
    return loss


def test_it_encodes_decodes_and_classifies(batch):
    model = stacked()
    assert all(isinstance(model, ability) for ability in (Encodes, Decodes, Reconstructs, Classifies))
    codes = model.encode(batch.x)
    assert codes.shape == (32, 6)
    assert 0 < codes.min() < codes.max() < 1
    assert model.classify(batch.x).shape == (32, 10)
    assert model.reconstruct(batch.x).shape == batch.x.shape


def test_the_code_goes_up_through_all_layers_and_down_again(batch):
    model = stacked("untied")
    (one, two), x = model.layers, batch.x.flatten(1)
    code = (x @ one.up.weight.T + one.up.bias).sigmoid()
    code = (code @ two.up.weight.T + two.up.bias).sigmoid()
    assert torch.allclose(model.encode(batch.x), code, atol=1e-6)
    # Before fine-tuning the classes are those of the code.
    assert torch.allclose(model.classify(batch.x), code @ model.head.weight.T + model.head.bias, atol=1e-6)
    down = (code @ two.down.weight.T + two.down.bias).sigmoid()
    down = (down @ one.down.weight.T + one.down.bias).sigmoid()
    assert torch.allclose(model.decode(code), down.view(32, *SHAPE), atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_each_stage_moves_its_layer_and_no_other_weights(make_trainer, kind):
    model = stacked(kind, noise=Gaussian(0.3), pretrain_epochs=[1, 2])
    moved, before = {}, [state(model)]

    class Watch(Observer):
        def epoch_ended(self, trainer, epoch):
            now = state(trainer.model)
            names = {name for name, value in now.items() if not torch.equal(value, before[0][name])}
            moved.setdefault(epoch.stage, set()).update(names)
            before[0] = now

    make_trainer(model, observers=[Watch()]).fit()
    of_layer = [{f"layers.{k}.{n}" for n in ("up.weight", "up.bias", "down.weight", "down.bias")} for k in (0, 1)]
    added = {f"finetuned.{k}.{n}" for k in (0, 1) for n in ("weight", "bias")}
    assert moved == {"layer_1": of_layer[0], "layer_2": of_layer[1], "finetune": added | {"head.weight", "head.bias"}}


def test_fine_tuning_leaves_the_autoencoder_as_it_was_pretrained(make_trainer, batch):
    model, pretrained = stacked(noise=Gaussian(0.3)), {}

    class Watch(Observer):
        def epoch_ended(self, trainer, epoch):
            if epoch.stage == "layer_2":
                pretrained.update(image=model.reconstruct(batch.x), logits=model.classify(batch.x))

    make_trainer(model, observers=[Watch()]).fit()
    assert torch.equal(model.reconstruct(batch.x), pretrained["image"])
    assert not torch.equal(model.classify(batch.x), pretrained["logits"])


def test_every_weight_that_a_stage_trains_gets_a_gradient_and_no_other(batch):
    model = stacked("untied")
    for stage in model.stages():
        trained = list(model.groups(stage)["model"].params)
        model.zero_grad()
        only_loss(model, batch, stage).value.backward()
        given = {id(p) for p in model.parameters() if p.grad is not None}
        assert given == {id(p) for p in trained}


def test_the_noise_corrupts_what_the_trained_layer_sees_and_clean_codes_go_up(batch):
    model = stacked(noise=Recording())
    first, second, finetune = model.stages()
    x = batch.x.flatten(1)
    clean = model.layers[0](x)
    expected = model.layers[0].reconstruction(x, x / 2)
    assert torch.allclose(only_loss(model, batch, first).value, expected)
    assert torch.equal(model.noise.given[0], batch.x)
    expected = model.layers[1].reconstruction(clean, clean / 2)
    assert torch.allclose(only_loss(model, batch, second).value, expected)
    # The image below came through layer 1 as it is; a code is an image of one row to the noise.
    assert torch.equal(model.noise.given[1], clean.view(32, 1, 1, 12))
    only_loss(model, batch, finetune)
    model.validate(batch, Rng(0))
    assert len(model.noise.given) == 2


@pytest.mark.parametrize("noise", [Gaussian(), Masking(0.25), Jitter()])
def test_codes_can_be_corrupted_as_images_can(batch, noise):
    model = stacked(noise=noise)
    for stage in model.stages():
        assert torch.isfinite(only_loss(model, batch, stage).value)


def test_a_denoising_layers_loss_is_the_cross_entropy_of_the_clean_code(batch):
    model = stacked("untied", noise=Masking(0.25))
    stage = next(model.stages())
    x, layer = batch.x.flatten(1), model.layers[0]
    seen = Masking(0.25)(batch.x, Rng(3)).flatten(1)
    h = (seen @ layer.up.weight.T + layer.up.bias).sigmoid()
    p = (h @ layer.down.weight.T + layer.down.bias).sigmoid()
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum() / 32
    assert torch.allclose(only_loss(model, batch, stage, Rng(3)).value, expected, rtol=1e-5)


def test_the_gradient_of_a_boltzmann_layer_is_contrastive_divergence(batch):
    torch.manual_seed(0)
    layer, v = RBMLayer(64, 5), batch.x.flatten(1)
    nn.init.normal_(layer.up.weight, std=0.5)
    layer.loss(v, v, Rng(4)).backward()
    with torch.no_grad():
        hidden = layer(v)
        dreamt = layer.decode((Rng(4).uniform(32, 5) < hidden).float())
        again = layer(dreamt)
        # d/dW is minus the difference of ⟨h vᵀ⟩, d/db of ⟨h⟩, d/db′ of ⟨v⟩.
        assert torch.allclose(layer.up.weight.grad, -(hidden.T @ v - again.T @ dreamt) / 32, atol=1e-6)
        assert torch.allclose(layer.up.bias.grad, -(hidden - again).mean(0), atol=1e-6)
        assert torch.allclose(layer.down.bias.grad, -(v - dreamt).mean(0), atol=1e-6)


def test_free_energies_are_of_the_boltzmann_distribution():
    torch.manual_seed(0)
    layer = RBMLayer(3, 2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    v = torch.tensor([[0.0, 1.0, 1.0]])
    states = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
    joint = v @ layer.down.bias + states @ layer.up.bias + ((states @ layer.up.weight) * v).sum(1)
    assert torch.allclose(layer.free_energy(v), -joint.logsumexp(0), atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_pretraining_brings_codes_back_better(make_trainer, kind):
    model = stacked(kind, widths=(32,), pretrain_epochs=20, pretrain_lr=0.05, noise=Masking(0.1))
    seen = []

    class Watch(Observer):
        def epoch_ended(self, trainer, epoch):
            seen.append(epoch.metrics["val/reconstruction_1"])

    make_trainer(model, epochs=1, observers=[Watch()]).fit()
    assert seen[19] < 0.9 * seen[0]


def test_without_pretraining_it_is_a_multilayer_perceptron(make_trainer):
    class Perceptron(Model):
        """The same layers, trained in one stage."""

        objective = "val/error"

        def __init__(self, source):
            super().__init__()
            one, two = (layer.up for layer in source.layers)
            self.classify = nn.Sequential(nn.Flatten(), one, nn.Sigmoid(), two, nn.Sigmoid(), source.head)

        def losses(self, batch, stage, rng):
            yield Loss(nn.functional.cross_entropy(self.classify(batch.x), batch.y))

        def validate(self, batch, rng):
            return {"error": (self.classify(batch.x).argmax(1) != batch.y).float().mean()}

    model, plain = stacked(pretrain_epochs=0), Perceptron(stacked(pretrain_epochs=0))
    assert [stage.name for stage in model.stages()] == ["finetune"]
    for one in (model, plain):
        trainer = make_trainer(one, epochs=4)
        trainer.fit()
    x = trainer.valid_source.pixels()
    assert torch.allclose(model.classify(x), plain.classify(x), atol=1e-4)
    assert model.classify(x).std(0).max() > 1e-2


def test_each_layer_has_its_epochs_and_its_rate(make_trainer):
    model = stacked(widths=(9, 8, 7), pretrain_epochs=[2, 0, 1], pretrain_lr=[0.1, 0.2, 0.3])
    assert [(s.name, s.epochs, s.labelled) for s in model.stages()] == [
        ("layer_1", 2, False), ("layer_3", 1, False), ("finetune", None, True)
    ]  # fmt: skip
    rates = []

    class Watch(Observer):
        def epoch_ended(self, trainer, epoch):
            rates.append((epoch.stage, epoch.metrics["lr"]))

    make_trainer(model, epochs=1, observers=[Watch()]).fit()
    assert rates == [("layer_1", 0.1), ("layer_1", 0.1), ("layer_3", 0.3), ("finetune", 1e-3)]


def test_fine_tuning_sees_labelled_images_and_pretraining_all(make_trainer):
    seen = {}

    class Watched(Stacked):
        def losses(self, batch, stage, rng):
            seen.setdefault(stage.name, []).extend(batch.index.tolist())
            yield from super().losses(batch, stage, rng)

    model = stacked()
    model.__class__ = Watched
    make_trainer(model, labels=20, epochs=1).fit()
    assert sorted(seen["layer_1"]) == sorted(seen["layer_2"]) == list(range(96))
    assert sorted(seen["finetune"]) == list(range(20))


@pytest.mark.parametrize("steps", [1, 3, 4, 6, 8, 9, 10])
@pytest.mark.parametrize("kind", ["tied", "rbm"])
def test_a_run_stopped_in_any_stage_goes_on_to_the_bit(make_trainer, tmp_path, kind, steps):
    def trainer(folder):
        # Three steps an epoch: one epoch for each layer, two of fine-tuning.
        return make_trainer(stacked(kind, noise=Gaussian(0.2)), folder, epochs=2)

    whole, first = trainer("whole"), trainer("parts")
    whole.fit()
    left = iter(range(steps))
    assert first.fit(lambda: None if next(left, None) is not None else "told") == "told"
    second = trainer("parts")
    second.restore(checkpoint.load(tmp_path / "parts/last.pt"))
    second.fit()
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", LAYERS)
def test_all_draws_are_the_rngs_and_validation_changes_nothing(batch, kind):
    model = stacked(kind, noise=Masking(0.5))
    before, random = state(model), torch.get_rng_state()
    for stage in model.stages():
        one, two = (only_loss(model, batch, stage, Rng(5)).value for _ in range(2))
        assert torch.equal(one, two)
    with torch.no_grad():
        metrics = model.validate(batch, Rng(0))
    assert model.objective.removeprefix("val/") in metrics
    values = [found.value if isinstance(found, Mean) else found for found in metrics.values()]
    assert all(value.dim() == 0 and torch.isfinite(value) for value in values)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, "widths must list at least one layer"),
        ({"widths": [4, 0]}, "widths must be at least 1"),
        ({"pretrain_epochs": [1]}, "pretrain_epochs must be a number, or a list of 2"),
        ({"pretrain_epochs": -1}, "pretrain_epochs must be finite numbers ≥ 0"),
        ({"pretrain_lr": [0.1, float("inf")]}, "pretrain_lr must be finite numbers ≥ 0"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        stacked(**settings)


def test_it_needs_classes():
    with pytest.raises(ValueError, match="at least 2 classes"):
        Stacked(SHAPE, 0, [4], AutoencoderLayer)
