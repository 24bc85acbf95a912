"""Models that go wrong with finite numbers are told of, once; those that learn are not."""

import functools
import json
from pathlib import Path

import pytest
import torch

from aectl.models.autoencoder import compute_dead_share
from aectl.models.gan import GAN, measure_variety
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.rng import Rng
from aectl.training import alarms as observer

DIGITS = ("dataset=digits", "device=cpu", "device.threads=1", "hydra.run.dir=run")
SMALL = "batch_size=16"


def alarms():
    return json.loads(Path("run/run.json").read_text()).get("alarms", {})


def said():
    return [line for line in Path("run/train.log").read_text().splitlines() if " WARNING aectl: epoch" in line]


@pytest.fixture
def soon(monkeypatch):
    """Let alarms be heard after 150 steps, two epochs of the digits."""
    monkeypatch.setattr(observer, "QUIET_STEPS", 150)


@pytest.mark.parametrize("model", ["sparse", "ksparse", "dropout", "vae"])
def test_what_learns_raises_none(model, aectl, soon, torture, tally):
    if not torture and model != "vae":
        pytest.skip("only with --all")
    # A small VAE's reconstructions are better than the mean image after some 300 steps.
    quick = ("model.encoder.widths=[100]", "model.decoder.widths=[100]", "optimizer.lr=0.005") if model == "vae" else ()
    epochs = 20 if torture else 6 if model == "vae" else 3
    words = ("train", f"model={model}", SMALL, *DIGITS, f"epochs={epochs}", *quick)
    assert aectl(*words)[0] == 0
    assert (alarms(), said()) == ({}, [])
    tally("runs that learnt: without an alarm")


def test_a_code_that_a_penalty_has_killed_is_told_once_and_training_goes_on(aectl, soon, tally):
    words = ("model=sparse", "penalty.weight=1000", "optimizer.lr=0.01", SMALL, *DIGITS)
    assert aectl("train", *words, "epochs=4")[0] == 0
    record = json.loads(Path("run/run.json").read_text())
    (name, alarm), (line,) = *record["alarms"].items(), said()
    assert (record["status"], record["epochs"], name) == ("done", 4, "dead_code")
    assert alarm["said"].endswith("units are dead: they are the same for all images")
    assert line.endswith(f"epoch {alarm['epoch']}: {alarm['said']}")
    assert aectl("train", "resume=run", "epochs=6")[0] == 0
    assert (alarms(), said()) == (record["alarms"], [line])
    tally("codes that were dead: reported once")


def test_a_short_run_that_has_learnt_nothing_is_told_what_to_do_until_it_has(aectl):
    words = ("model=linear", "batch_size=128", *DIGITS, "optimizer.lr=1e-5", "epochs=1")
    _, out, _ = aectl("train", *words)
    assert list(alarms()) == ["no_better_than_mean_image"]
    assert said()[0].endswith("; train longer (epochs= or steps=)")
    assert "squared error per image (epoch 1)" in out and "; the mean image 0.07187" in out
    assert aectl("train", "model=linear", "batch_size=16", *DIGITS[:3], "hydra.run.dir=longer", "epochs=2")[0] == 0
    assert not json.loads(Path("longer/run.json").read_text()).get("alarms")


def test_a_posterior_that_has_collapsed_is_told(aectl, soon, tally):
    assert aectl("train", "model=vae", "model.beta=1e4", SMALL, *DIGITS, "epochs=3")[0] == 0
    assert list(alarms()) == ["collapse"]
    assert len(said()) == 1
    tally("posteriors that had collapsed: reported once")


def test_a_generator_whose_samples_are_all_alike_is_told(aectl, soon, tally):
    """One that hardly moves: it makes grey images."""
    assert (
        aectl("train", "model=gan", SMALL, *DIGITS, "model.generator.norm=none", "optimizer.lr=1e-9", "epochs=3")[0]
        == 0
    )
    assert list(alarms()) == ["collapse"]
    assert len(said()) == 1
    tally("generators that had collapsed: reported once")


def test_a_discriminator_that_is_always_right_or_never_is_told_of_and_a_critic_is_not():
    part = functools.partial
    kinds = (part(DenseDecoder, widths=[2]), part(DenseEncoder, widths=[2]))
    judge, critic = (GAN((1, 4, 4), 2, *kinds, loss=loss) for loss in ("nonsaturating", "wgan_gp"))
    for real, fake, told in ((1.0, 0.995, True), (0.0, 0.001, True), (1.0, 0.5, False), (0.92, 0.87, False)):
        metrics = {"train/accuracy_real": real, "train/accuracy_fake": fake, "val/spread": 0.5, "val/reached": 0.3}
        assert list(judge.alarms(metrics)) == ["discriminator"] * told
        assert not critic.alarms(metrics)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0002, 0.5])
def test_of_generators_as_they_come_only_the_collapsed_one_is_told(rate, aectl, tally):
    """At 2,500 times the usual rate the discriminator wins, and after 10 epochs all samples are one image."""
    words = ("experiment=classic_gan", *DIGITS, "batch_size=32", "epochs=30", f"optimizer.lr={rate}")
    assert aectl("train", *words)[0] == 0
    assert sorted(alarms()) == ([] if rate < 0.01 else ["collapse", "discriminator"])
    tally("generators, collapsed or not: told apart")


def test_variety_is_one_for_the_images_themselves_and_none_for_one_sample():
    x = Rng(0).uniform(40, 1, 4, 4)
    same, one = measure_variety(x, x), measure_variety(x, x[:1].expand(40, -1, -1, -1))
    assert [round(float(same[name]), 5) for name in ("spread", "reached")] == [1, 1]
    assert float(one["spread"]) < 1e-3
    assert float(one["reached"]) == pytest.approx(1 / 40)
    half = measure_variety(x, 0.5 * x)
    assert float(half["spread"]) == pytest.approx(0.5, rel=1e-4)
    assert float(measure_variety(x[:1], x[:1])["spread"]) == 1


def test_dead_units_are_those_that_never_change():
    h = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    assert float(compute_dead_share(h)) == 0
    h[:, 0], h[:, 1], h[:, 2] = 0.0, 1.0, 1 + 1e-8
    assert float(compute_dead_share(h)) == pytest.approx(3 / 8)
    h[7, 0] = 1e-3
    assert float(compute_dead_share(h)) == pytest.approx(2 / 8)


OWN = """
from aectl.models.autoencoder import Autoencoder


class Worried(Autoencoder):
    def alarms(self, metrics):
        return {"worry": f"{len(metrics)} metrics and no joy"} if metrics["val/mse"] < 10 else {}
"""


@pytest.mark.slow
def test_a_model_of_ones_own_declares_its_alarm_in_its_own_file(aectl, soon):
    Path("own.py").write_text(OWN)
    words = ("model=undercomplete", "model._target_=own.Worried", SMALL, *DIGITS, "epochs=3")
    code, out, _ = aectl("train", *words)
    assert code == 0
    assert alarms()["worry"]["epoch"] == 2
    assert out.count("and no joy") == 1


FAULTY = """
from aectl.models.autoencoder import Autoencoder


class Raises(Autoencoder):
    def alarms(self, metrics):
        raise KeyError("val/mood")


class Nothing(Autoencoder):
    def alarms(self, metrics):
        return None


class Odd(Autoencoder):
    def alarms(self, metrics):
        return {5: None}
"""


@pytest.mark.parametrize(
    "name", ["Raises", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Nothing", "Odd"))]
)
def test_an_alarm_of_ones_own_that_fails_is_a_warning_and_ends_no_run(name, aectl, soon, torture, tally):
    Path("own.py").write_text(FAULTY)
    epochs = 12 if torture else 3
    words = ("model=undercomplete", f"model._target_=own.{name}", SMALL, *DIGITS, f"epochs={epochs}")
    code, out, err = aectl("train", *words)
    assert code == 0
    assert (out + err).count(f"model: {name}.alarms raised") == (name != "Odd")
    assert json.loads(Path("run/run.json").read_text())["epochs"] == epochs
    if name == "Odd":
        assert alarms()["5"]["said"] == "None"
    # Its record can be read again.
    assert aectl("train", "resume=run", f"epochs={epochs + 1}", "trust=own")[0] == 0
    tally("observers that failed: the run ended all the same", epochs + 1)
