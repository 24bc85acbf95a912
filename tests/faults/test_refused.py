"""A command that is refused leaves nothing behind, and what it refuses never becomes `latest`."""

from pathlib import Path

import pytest

from tests.small import DENSE, QUICK

SMALL_GAN = ("model=gan", "model.generator.widths=[4]", "model.discriminator.widths=[4]")


def left_over():
    """Return what is in the working folder, but for an empty outputs/."""
    return [path for path in Path().rglob("*") if path.parts not in (("data",), ("outputs",))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*SMALL_GAN, "dataset.valid=0"), "val/energy_distance, needs validation images"),
        ((*SMALL_GAN, "dataset.valid=0"), "choose objective= from train/loss_discriminator"),
        (("model=dbm", "model.widths=[4,4]", "dataset.valid=0"), "val/pseudo_nll, needs validation images"),
        (("model=stacked_ae", "model.widths=[4]", "dataset.valid=0"), "val/error, needs validation images"),
        ((*DENSE, "objective=train/lost"), "no metric called 'train/lost'; did you mean 'train/loss'?"),
        ((*DENSE, "dataset.valid=0", "objective=val/loss"), "needs validation images"),
        (("hydra.output_subdir=null",), "a run's config is in its .hydra"),
        (("++hydra.output_subdir=x",), "a run's config is in its .hydra"),
    ],
)
def test_a_run_that_is_refused_leaves_no_folder(aectl, words, said):
    code, _, err = aectl("train", *QUICK, *words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) <= 2
    assert not left_over()


@pytest.mark.parametrize("words", [(), ("objective=train/loss",), ("objective=train/gradient_norm",)])
def test_a_run_without_held_out_images_follows_what_its_steps_log(aectl, words):
    code, out, _ = aectl("train", *QUICK, *DENSE, "model.code=2", "dataset.valid=0", *words)
    assert code == 0
    assert f"best {words[0].partition('=')[2] if words else 'train/loss'}" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=vae,vaee",), "no model called 'vaee'"),
        (("seed=0,x",), "'x' is not a whole number"),
        (("seed=0,1", "jobs=0"), "jobs must be at least 1"),
        (("seed=0,1", "epochs=-1"), "epochs must be at least 1"),
        (("seed=0,1", "jobs=0", "hydra.sweep.dir=a/b"), "jobs must be at least 1"),
        (("sweep=search_vae", "trials=0"), "trials must be at least 1"),
        (("sweep=search_vae", "trials=1", "storage=nix://x"), "storage: "),
        (("seed=0,1", "hydra.output_subdir=null"), "a run's config is in its .hydra"),
    ],
)
def test_a_sweep_with_a_typo_leaves_no_folder(aectl, words, said):
    code, _, err = aectl("train", "-m", *QUICK, *words)
    assert code != 0
    assert said in err
    assert not left_over()


def test_a_sweeps_folder_that_was_there_before_stays(aectl, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert aectl("train", "-m", *QUICK, "seed=0,1", "jobs=0", "hydra.sweep.dir=mine")[0] != 0
    assert (tmp_path / "mine" / "notes.txt").exists()
