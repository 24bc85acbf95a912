"""Pictures against cases with a known answer, and through the real command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from aectl.cli.help import of_command
from aectl.commands.sample import describe_left_out
from aectl.data.datasets import Source
from aectl.models.base import Model
from aectl.rng import Rng
from aectl.runs.run import find_run
from aectl.sampling import KINDS, Impossible, Request, logged_images, paths
from aectl.sampling import draws as draw
from aectl.sampling import reconstruction as again
from aectl.tensorboard.images import make_grid

SHAPE = (1, 4, 6)
QUICK = ("dataset=digits", "epochs=1", "device=cpu", "device.threads=1", "batch_size=256")
SAMPLE = ("sample", "run=latest", "device=cpu", "device.threads=1")


class Plane(Model):
    """Encodes the first two pixels, and decodes them into all."""

    def encode(self, x):
        return x.flatten(1)[:, :2]

    def decode(self, z):
        return z.repeat(1, 12).view(-1, *SHAPE)


class Prior(Model):
    """Decodes and samples, but has no encoder."""

    conditional, code = True, 3

    def decode(self, z):
        return z.repeat(1, 8).view(-1, *SHAPE)

    def sample(self, n, *, rng, y=None, temperature=1.0):
        return torch.full((n, *SHAPE), temperature) * (0 if y is None else y.view(-1, 1, 1, 1) / 10)


class Halves(Model):
    """Its noise takes 0.1 away, and its reconstruction is the half of what it sees."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def reconstruct(self, x):
        return 0.5 * x


class Less(nn.Module):
    def forward(self, x, rng):
        return x - 0.1


def source(n=40):
    images = Rng(0).uniform(n, *SHAPE)
    # The second pixel varies more than the first.
    images.view(n, -1)[:, 0] *= 0.5
    return Source(images, torch.arange(n) % 10, torch.arange(n), scale=1.0, classes=10)


def request(n=20, **given):
    return Request(n, Rng(0), given.pop("temperature", 1.0), given.pop("source", source()), **given)


def test_great_circles_keep_the_length_and_pass_the_middle():
    a, b = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    way = paths.interpolate_spherically(a, b, torch.linspace(0, 1, 5)[:, None])
    torch.testing.assert_close(way.norm(dim=1), torch.full((5,), 3.0))
    torch.testing.assert_close(way[2], torch.tensor([3.0, 3.0, 0.0]) / 2**0.5)
    torch.testing.assert_close(paths.interpolate_linearly(a, b, torch.tensor([[0.5]])), torch.tensor([[1.5, 1.5, 0.0]]))


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_codes_on_one_line_are_joined_by_it(factor):
    a, share = torch.tensor([[1.0, 2.0]]), torch.linspace(0, 1, 5)[:, None]
    torch.testing.assert_close(
        paths.interpolate_spherically(a, factor * a, share), paths.interpolate_linearly(a, factor * a, share)
    )


def test_interpolations_are_straight_for_encoders_and_round_for_priors_unless_told():
    def is_straight(model, path):
        codes = paths.interpolate_codes(model, request(path=path))["codes"]
        return torch.allclose(codes.diff(2, 1), torch.zeros(()), atol=1e-5)

    assert [is_straight(Plane(), path) for path in ("auto", "linear", "spherical")] == [True, True, False]
    assert [is_straight(Prior(), path) for path in ("auto", "linear", "spherical")] == [False, True, False]


def test_interpolations_go_from_the_code_of_one_image_to_that_of_another():
    asked = request()
    made, x = paths.interpolate_codes(Plane(), asked), asked.images(4)
    torch.testing.assert_close(
        made["codes"][:, [0, -1]], torch.stack([Plane().encode(x[:2]), Plane().encode(x[2:])], 1)
    )
    with pytest.raises(Impossible, match="two images"):
        paths.interpolate_codes(Plane(), request(source=source(1)))


def test_a_traversal_changes_one_unit_the_most_varied_first():
    asked = request()
    made = paths.traverse_units(Plane(), asked)
    assert made["units"].tolist() == [1, 0]
    codes = Plane().encode(asked.images(500))
    torch.testing.assert_close(made["codes"][0, :, 0], codes[0, 0].expand(10))
    torch.testing.assert_close(made["codes"][0, [0, -1], 1], codes[:, 1].quantile(torch.tensor([0.025, 0.975])))
    torch.testing.assert_close(made["codes"].diff(2, 1), torch.zeros(2, 8, 2), atol=1e-6, rtol=0)


def test_without_an_encoder_a_traversal_covers_the_prior_about_zero():
    made = paths.traverse_units(Prior(), request())
    torch.testing.assert_close(made["codes"], torch.linspace(-2, 2, 10)[None, :, None] * torch.eye(3)[:, None])


def test_a_density_needs_as_many_images_as_components():
    made = draw.sample_density(Plane(), request(train=source(), density="gaussian", components=99))
    assert made["images"].shape == (20, *SHAPE)
    torch.testing.assert_close(Plane().encode(made["images"]), made["codes"])
    with pytest.raises(Impossible, match="components=41 needs"):
        draw.sample_density(Plane(), request(train=source(), components=41))


def test_a_chain_corrupts_and_reconstructs_again_and_again():
    asked = request(steps=20)
    made = again.run_chain(Halves(Less()), asked)
    assert made["steps"].tolist() == list(range(0, 21, 2))
    x = asked.images(2)
    for step in range(20):
        if step in made["steps"]:
            torch.testing.assert_close(made["images"][:, step // 2], x)
        x = (0.5 * (x - 0.1)).clamp_min(0)
    assert float(made["images"].min()) == 0
    assert again.run_chain(Halves(Less()), request(steps=3))["steps"].tolist() == [0, 1, 2, 3]


class Counter(Halves):
    """Its chain begins at 0 and goes up by a hundredth at each step."""

    def start(self, n, *, rng):
        return torch.zeros(n, *SHAPE)

    def walk(self, x, rng):
        return x + 0.01


def test_a_model_walks_its_own_chain_from_its_own_start():
    made = again.run_chain(Counter(Less()), request(steps=20))
    assert made["images"].shape == (2, 11, *SHAPE)
    torch.testing.assert_close(made["images"][1, :, 0, 0, 0], made["steps"] / 100)
    assert made["steps"].tolist() == list(range(0, 21, 2))


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"steps": 20, "burn_in": 7}, list(range(7, 28, 2))),
        ({"thinning": 3}, list(range(0, 31, 3))),
        ({"thinning": 4, "burn_in": 50, "steps": 9}, list(range(50, 91, 4))),
    ],
)
def test_a_chain_is_shown_behind_its_burn_in_and_as_often_as_asked(given, steps):
    made = again.run_chain(Counter(None), request(**given))
    assert made["steps"].tolist() == steps
    torch.testing.assert_close(made["images"][0, :, 0, 0, 0], torch.tensor(steps) / 100)
    # The chain of corruptions likewise.
    other = again.run_chain(Halves(Less()), request(**given))
    assert other["steps"].tolist() == steps


def test_the_title_of_a_chain_says_whose_steps_they_are():
    assert "corrupt" in KINDS["chain"].title(Halves(Less()), request())
    assert "own Markov chain" in KINDS["chain"].title(Counter(Less()), request())


def test_a_chain_takes_a_noise():
    assert again.has_chain(Halves(Less()))
    assert not again.has_chain(Halves(None))
    assert not again.has_chain(Prior())
    assert again.has_chain(Counter(None))


def test_a_class_is_drawn_where_the_model_has_one():
    made = draw.sample_prior(Prior(), request(label=3, temperature=0.5))["images"]
    torch.testing.assert_close(made, torch.full((20, *SHAPE), 0.15))
    assert float(draw.sample_prior(Prior(), request())["images"].max()) == 0


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (1, 4, 6), (1, 1, 2), (3, 64, 60)], ids=str)
def test_sheets_are_cut_into_the_images_that_they_were_made_of(shape):
    images = (255 * Rng(0).uniform(12, *shape)).round() / 255
    sheet = (255 * make_grid(images, 4)).round().byte().permute(1, 2, 0).expand(-1, -1, 3).numpy()
    torch.testing.assert_close(logged_images.split_sheet(sheet, shape), images.view(3, 4, *shape))
    with pytest.raises(Impossible, match=r"do not have the shape \(1, 31, 30\)"):
        logged_images.split_sheet(sheet, (1, 31, 30))


def write(folder, levels, suffix, purge_step=None):
    """Write pictures of one level of grey each, by epoch, as one start of a run does."""
    writer = SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=suffix)
    for epoch, level in levels.items():
        writer.add_image("samples", make_grid(torch.full((4, *SHAPE), level / 255), 2), epoch)
    writer.close()


def test_training_is_read_from_all_files_without_what_a_resume_forgot(tmp_path):
    write(tmp_path, {1: 10, 2: 20, 3: 30, 4: 40}, ".a")
    write(tmp_path, {3: 33}, ".b", purge_step=3)
    made = logged_images.load_training_images(Prior(), request(folder=tmp_path))
    assert made["epochs"].tolist() == [1, 2, 3]
    assert made["images"].shape == (3, 2, 2, *SHAPE)
    assert [round(255 * level) for level in made["images"].mean((1, 2, 3, 4, 5)).tolist()] == [10, 20, 33]
    with pytest.raises(Impossible, match="'reconstruction'"):
        logged_images.load_training_images(Halves(None), request(folder=tmp_path))
    with pytest.raises(Impossible, match="'samples'"):
        logged_images.load_training_images(Prior(), request(folder=tmp_path / "absent"))


def test_help_names_every_kind():
    text = of_command("sample")
    assert all(kind in text for kind in KINDS)


def contents():
    return {path.name: path.read_bytes() for path in (find_run("latest") / "samples").iterdir()}


def test_every_file_is_the_same_the_second_time_and_another_with_another_seed(aectl, trained):
    trained("vae", "model.code=2", "noise=gaussian")
    assert aectl("train", "resume=latest", "epochs=3")[0] == 0
    made = []
    for seed in (0, 0, 1):
        code, out, err = aectl(*SAMPLE, f"seed={seed}", "n=20", "density=gmm", "components=3", "steps=5")
        assert code == 0, out + err
        made.append(contents())
    assert set(made[0]) == {f"{kind}.{ending}" for kind in KINDS for ending in ("png", "npz")} | {"training.gif"}
    assert np.load(find_run("latest") / "samples/manifold.npz")["images"].shape == (20, 20, 1, 8, 8)
    assert made[0] == made[1]
    fixed = {"manifold.png", "manifold.npz", "training.png", "training.npz", "training.gif"}
    assert {name for name in made[0] if made[0][name] == made[2][name]} == fixed
    with Image.open(find_run("latest") / "samples/training.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0


def test_an_autoencoder_samples_from_a_density_said_to_be_no_prior(aectl, trained):
    trained("undercomplete")
    code, out, err = aectl(*SAMPLE, "kind=density", "density=gaussian", "n=9", "temperature=0.5")
    assert code == 0, out + err
    assert "no effect" not in out + err
    assert np.load(find_run("latest") / "samples/density.npz")["images"].shape == (9, 1, 8, 8)
    model = KINDS["density"].title(None, request(train=source(), density="gaussian"))
    assert model == "Drawn from a Gaussian fitted to the codes of 40 training images, not from a prior"
    assert set(contents()) == {"density.png", "density.npz"}
    code, out, err = aectl(*SAMPLE, "kind=density", "components=5000")
    assert code != 0
    assert "kind=density: components=5,000 needs at least 5,000 training images, but there are 1,287" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("label=3",), "model 'undercomplete' cannot sample a class: it was not trained with classes"),
        (("label=-1",), "label must be at least 0, not -1"),
        (("kind=chain",), "was trained without noise (noise=gaussian)\n"),
        (("kind=manifold",), "cannot draw its manifold: its code is not two-dimensional (model.code=2)\n"),
        (("kind=chian",), "no pictures called 'chian'; did you mean 'chain'?"),
        (("path=round",), "path must be one of auto, linear, spherical, not 'round'"),
        (("density=gausian",), "density must be one of gaussian, mixture, not 'gausian'"),
        (("steps=0",), "steps must be at least 1, not 0"),
        (("burn_in=-1",), "burn_in must be at least 0, not -1"),
        (("thinning=0",), "thinning must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_said_in_two_lines(aectl, trained, arguments, message):
    trained("undercomplete")
    code, out, err = aectl(*SAMPLE, *arguments)
    assert code != 0
    assert message in err
    assert len(err.strip().splitlines()) <= 2


def test_left_out_kinds_are_named_with_their_reason():
    line = describe_left_out([kind for kind in KINDS if kind not in ("prior", "manifold")])
    assert line == "left out: prior: it has no prior; manifold: its code is not two-dimensional (model.code=2)"
    assert describe_left_out(list(KINDS)) == ""


def test_settings_without_effect_are_told(aectl, trained):
    trained("undercomplete")
    code, out, err = aectl(*SAMPLE, "kind=reconstruction", "temperature=0.5", "path=spherical")
    assert code == 0
    assert "temperature=0.5 has no effect on these pictures: reconstruction" in out + err
    assert "path=spherical has no effect" in out + err
    assert "steps" not in out + err


def test_a_restricted_boltzmann_machine_walks_from_its_start(aectl, trained):
    trained("rbm", "model.hidden=8", "model.sample_steps=3")
    code, out, err = aectl(*SAMPLE, "kind=chain", "n=30", "burn_in=5", "thinning=2")
    assert code == 0, out + err
    assert {Path(line).name for line in (out + err).splitlines()} >= {"chain.png", "chain.npz"}
    assert "no effect" not in out + err
    made = np.load(find_run("latest") / "samples/chain.npz")
    assert made["images"].shape == (3, 11, 1, 8, 8)
    assert set(np.unique(made["images"])) == {0, 1}
    assert made["steps"].tolist() == list(range(5, 26, 2))
    code, out, err = aectl(*SAMPLE, "kind=prior", "n=4", "burn_in=5")
    assert code == 0, out + err
    assert "burn_in=5 has no effect on these pictures: prior" in out + err


CONDITIONAL = """
import torch
from torch import nn
from aectl.models import Loss, Model

class {name}(Model):
    conditional = True
    def __init__(self, shape, classes):
        super().__init__()
        self.shape, self.means = shape, nn.Parameter(torch.zeros(classes, *shape))
    {sample}(self, n, *, rng, y=None, temperature=1.0):
        y = torch.zeros(n, dtype=torch.int64) if y is None else y
        return y.view(-1, 1, 1, 1).expand(n, *self.shape) / 10
    def losses(self, batch, stage, rng):
        yield Loss((batch.x - self.means[batch.y]).square().sum() / len(batch.x))
    def validate(self, batch, rng):
        return {{"loss": (batch.x - self.means[batch.y]).square().sum() / len(batch.x)}}
"""


def test_a_class_is_asked_of_ones_own_model(aectl, tmp_path):
    (tmp_path / "my_classes.py").write_text(CONDITIONAL.format(name="Mine", sample="def sample"))
    aectl("train", "model=custom", "model._target_=my_classes.Mine", *QUICK)
    code, out, err = aectl(*SAMPLE, "trust=my_classes", "kind=prior", "label=3")
    assert code == 0, out + err
    assert np.allclose(np.load(find_run("latest") / "samples/prior.npz")["images"], 0.3)
    code, out, err = aectl(*SAMPLE, "trust=my_classes", "label=10")
    assert code != 0
    assert "label must be one of the 10 classes, counted from 0, not 10" in err


def test_a_model_that_makes_no_pictures_says_so(aectl, tmp_path):
    (tmp_path / "my_mute.py").write_text(CONDITIONAL.format(name="Mute", sample="def draw"))
    aectl("train", "model=custom", "model._target_=my_mute.Mute", *QUICK)
    code, out, err = aectl(*SAMPLE, "trust=my_mute")
    assert code != 0
    assert "model 'custom' makes no pictures: it neither samples, reconstructs nor decodes codes" in err
    assert not Path(find_run("latest"), "samples").exists()


def test_a_run_whose_event_files_are_gone_makes_its_other_pictures(aectl, trained):
    trained("undercomplete")
    for path in find_run("latest").glob("events.*"):
        path.unlink()
    code, out, err = aectl(*SAMPLE, "n=4")
    assert code == 0, out + err
    assert "no pictures of kind training: the run's event files have no images called 'reconstruction'" in out + err
    assert "interpolation.png" in contents()
    code, out, err = aectl(*SAMPLE, "kind=training")
    assert code != 0
    assert "kind=training: the run's event files" in err
