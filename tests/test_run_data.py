"""A run knows its data: other data are refused, none are needed where none are used, and paths hold from anywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import aectl as package
from aectl.cli import hydra_main
from aectl.config import ConfigError
from aectl.config.absolute_paths import make_data_paths_absolute
from aectl.data.datasets import arrays, digits
from aectl.data.digests import describe, describe_differences, describe_splits, mean_intensity
from aectl.runs.run import Run
from aectl.sweep import plan
from aectl.training import checkpoint

SIZES = ("epochs=1", "batch_size=16", "device=cpu", "device.threads=1")
VAE = ("model=vae", "model.encoder.widths=[8]", "model.decoder.widths=[8]", "model.code=3")
AE = ("model=undercomplete", "model.encoder.widths=[8]", "model.decoder.widths=[8]", "model.code=3")
OWN = ("dataset=arrays", "dataset.path=own.npz", *SIZES)
CHANGED = "the data of run have changed since it was trained: "


def images(n=60, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (n, 5, 5), np.uint8), draw.integers(0, 3, n)


def write(x, y, path="own.npz"):
    np.savez(path, x=x, y=y)


def train(aectl, *words, folder="run"):
    code, _, said = aectl("train", *words, f"hydra.run.dir={folder}")
    assert code == 0, said
    return Run(Path(folder))


def refused(outcome, message):
    code, _, said = outcome
    assert code == 2 and message in said, said
    assert len(said.strip().splitlines()) <= 2
    return True


def changes(test):
    """Return, for each way in which data can change, the images and labels, and what is said of it; `test` is where."""
    x, y = images()
    more, others = images(61)[0], x.copy()
    others[test] = 255 - others[test]
    labels = y.copy()
    labels[test] = (labels[test] + 1) % 3
    return {
        "one more": (more, np.append(y, 0), "60 images then, 61 now; other images in "),
        "one less": (x[:-1], y[:-1], "60 images then, 59 now; other images in "),
        "another test image": (others, y, "other images in "),
        "another test label": (x, labels, "other labels in test"),
        "another order": (x[::-1], y[::-1], "other images in train, valid, test"),
        "other numbers": (x.astype(np.float32) / 255, y, "other images in "),
    }


def test_every_change_of_the_data_is_told_and_refused(aectl):
    write(*images())
    run = train(aectl, *AE, *OWN)
    test = package.dataset("run").split("test").index.tolist()
    assert package.dataset("run").split("train").shape == (1, 5, 5)
    for what, (x, y, message) in changes(test[:1]).items():
        write(x, y)
        with pytest.raises(ConfigError) as caught:
            package.dataset("run")
        assert f"{CHANGED}{message}" in str(caught.value), what
        assert str(caught.value).splitlines()[1] == "  changed=True uses them as they are now"
        assert package.dataset("run", changed=True).shape == (1, 5, 5)
    write(*images())
    assert package.dataset("run").split("test").index.tolist() == test

    write(*changes(test[:1])["one more"][:2])
    commands = (
        ("eval", "run=run", "only=codes", "figures=false"),
        ("sample", "run=run", "n=2", "kind=reconstruction"),
        ("eval", "run=run", "images=own.npz"),
        ("train", "resume=run", "epochs=2"),
    )
    for words in commands:
        assert refused(aectl(*words), f"{CHANGED}60 images then, 61 now")
    assert refused(aectl("eval", "run=run", "data=new"), "data must be one of same, changed, not 'new'")
    known = run.record["data"]
    said = ""
    for words in commands:
        code, out, err = aectl(*words, "data=changed")
        assert code == 0, err
        said += out
    assert "test images of data that may have changed, after epoch 1" in said
    # What is trained on them is a run of theirs.
    assert run.record["earlier_data"] == [known]
    assert run.record["data"]["train_images"] + run.record["data"]["test_images"] > 50
    assert len(package.dataset("run").split("train")) == run.record["data"]["train_images"]
    write(*images())
    assert refused(aectl("train", "resume=run", "epochs=3"), "61 images then, 60 now")


def test_stored_tables_are_printed_without_the_data_and_not_beside_other_data(aectl):
    write(*images())
    train(aectl, *AE, *OWN)
    words = ("eval", "run=run", "only=codes", "figures=false")
    assert aectl(*words)[0] == 0
    Path("own.npz").rename("moved.npz")
    code, said, _ = aectl(*words)
    assert code == 0 and "evaluated 2" in said
    write(*images(61))
    assert refused(aectl(*words), "60 images then, 61 now")


def test_a_run_of_an_earlier_version_is_not_checked_and_keeps_its_splits(aectl):
    write(*images())
    run = train(aectl, *AE, *OWN)
    record = run.record
    del record["data"]
    Path("run/run.json").write_text(json.dumps(record))
    config = Path("run/.hydra/config.yaml")
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "split_by" not in line))
    write(*images(61))
    found = package.dataset("run")
    assert all(torch.equal(found.split(s).index, arrays("own.npz").split(s).index) for s in ("train", "valid", "test"))
    assert aectl("eval", "run=run", "only=codes", "figures=false")[0] == 0


def test_other_test_images_and_other_files_in_a_folder_are_told(aectl):
    x, y = images()
    write(x, y)
    write(x[:9], y[:9], "other.npz")
    train(aectl, *AE, *OWN, "dataset.test_path=other.npz")
    write(x[1:10], y[1:10], "other.npz")
    with pytest.raises(ConfigError, match="changed since it was trained: other images in test\n"):
        package.dataset("run")
    Path("photos").mkdir()
    for number, pixels in enumerate(x[:30]):
        Image.fromarray(pixels).save(f"photos/{number:02}.png")
    train(aectl, *AE, *SIZES, "dataset=folder", "dataset.root=photos", "dataset.size=5", folder="files")
    assert package.dataset("files").split("test").shape == (1, 5, 5)
    Image.fromarray(x[40]).save("photos/new.png")
    with pytest.raises(ConfigError, match="30 images then, 31 now; other images in"):
        package.dataset("files")


def test_data_that_cannot_change_are_described_by_their_config():
    data = digits()
    assert describe(data, data.split("train"), data.split("valid")) == {
        "name": "digits",
        "mean": pytest.approx(0.305, abs=0.01),
    }
    assert mean_intensity(data.split("excluded")) is None


def test_only_what_both_describe_is_compared():
    data = digits()
    now = describe_splits(data)
    assert now == describe_splits(digits())
    assert not describe_differences({}, now) and not describe_differences({"test_images": 3, "test_digest": None}, {})
    then = {**now, "valid_labels": "0"}
    assert describe_differences(then, now) == "other labels in valid"
    assert describe_differences({key: value for key, value in then.items() if "valid" not in key}, now) == ""


@pytest.mark.slow
def test_a_run_does_without_its_data_where_none_are_used(aectl):
    write(*images())
    write(*images(4, seed=1), "mine.npz")
    train(aectl, *VAE, *OWN)
    train(aectl, *AE, *OWN, folder="ae")
    for gone in (True, False):
        # What needs no data is not stopped by others either.
        Path("own.npz").rename("gone.npz") if gone else write(*images(61))
        code, said, err = aectl("sample", "run=run", "n=2", "kind=prior")
        assert (code, err) == (0, "") and "prior.png" in said
        assert aectl("eval", "run=run", "export=safetensors")[0] == 0
        assert package.load("run").sample(2, rng=package.Rng(0)).shape == (2, 1, 5, 5)
    Path("own.npz").unlink()
    code, said, _ = aectl("sample", "run=run", "n=20")
    assert code == 0
    assert {path.stem for path in Path("run/samples").glob("*.npz")} == {
        "prior",
        "interpolation",
        "traversal",
        "training",
    }
    reason = "the run's data cannot be read: "
    assert all(f"no pictures of kind {kind}: {reason}" in said for kind in ("density", "reconstruction"))
    assert aectl("eval", "run=run", "images=mine.npz")[0] == 0
    assert refused(aectl("sample", "run=run", "kind=reconstruction"), f"kind=reconstruction: {reason}")
    assert refused(aectl("eval", "run=run", "again=true"), "own.npz does not exist")
    code, said, _ = aectl("sample", "run=ae", "n=2")
    assert code == 0 and "training.gif" in said and f"kind interpolation: {reason}" in said
    for path in Path("ae").glob("events*"):
        path.unlink()
    assert refused(aectl("sample", "run=ae", "n=2"), "no pictures could be made")
    assert json.loads(safetensors_notes("run/export/model.safetensors")["dataset"]) == "own"


def safetensors_notes(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_dark_models_take_light_images_for_negatives_also_without_their_data(aectl):
    x, y = images()
    write(x // 8, y)
    write(255 - x // 8, y, "light.npz")
    run = train(aectl, *AE, *OWN)
    Path("own.npz").unlink()
    assert run.record["data"]["mean"] == pytest.approx(0.06, abs=0.01)
    assert "try invert=true" in aectl("eval", "run=run", "images=light.npz")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "figures"), [(AE, "true"), (VAE, "false"), (("model=made", "model.hidden=[8]"), "false")]
)
def test_one_test_image_ends_no_evaluation(aectl, model, figures):
    write(*images(30))
    train(aectl, *model, *OWN, "dataset.test=1", "dataset.valid=1")
    code, said, err = aectl("eval", "run=run", "nll_images=2", "nll_samples=2", f"figures={figures}")
    assert code == 0, err
    tables = json.loads(Path("run/metrics.json").read_text())["test"]
    assert tables["images"] == 1 and len(tables["titles"]) > 1
    assert all(f"no table of {name}: {why}" in said for name, why in tables["missing"].items())
    assert "samples" not in tables["titles"]
    assert Path("run/report.html").is_file() == (figures == "true")


@pytest.mark.slow
def test_without_test_images_a_prior_is_sampled_and_eval_says_what_to_do(aectl):
    write(*images(40))
    train(aectl, *VAE, *OWN, "dataset.test=0")
    code, said, _ = aectl("sample", "run=run", "n=20")
    assert code == 0
    assert "no pictures of kind reconstruction: the run's dataset has no test images" in said
    assert all(Path(f"run/samples/{kind}.npz").is_file() for kind in ("prior", "density", "interpolation", "traversal"))
    assert refused(aectl("eval", "run=run"), "split=test of this run's dataset is empty; take split=valid")


@pytest.mark.slow
def test_a_job_does_not_join_a_sweep_that_had_other_data(aectl):
    write(*images())
    train(aectl, *AE, *OWN, "seed=0", folder="sweep/0-seed_0")
    train(aectl, *AE, *OWN, "dataset.valid=7", folder="sweep/1-valid_7")
    Path("sweep/sweep.json").write_text("{}")
    train(aectl, *AE, *OWN, "seed=2", folder="sweep/2-seed_2")
    write(*images(61))
    words = ("train", *AE, *OWN, "seed=3", "hydra.run.dir=sweep/3-seed_3")
    assert refused(
        aectl(*words), "the data have changed since 0-seed_0 of this sweep was trained: 60 images then, 61 now"
    )
    assert not Path("sweep/3-seed_3").exists()
    train(aectl, *AE, *OWN, "dataset.valid=8", folder="sweep/4-valid_8")


PATHS = [
    ({"_target_": "aectl.data.datasets.arrays", "path": "x.npz", "test_path": None}, {"path": "x.npz"}),
    ({"_target_": "aectl.data.folder.folder", "root": "a/../b", "test_root": "~"}, {"root": "a/../b"}),
    ({"_target_": "aectl.data.datasets.mnist", "root": "data"}, {"root": "data"}),
    ({"_target_": "aectl.data.patches.patches", "root": "${oc.env:AECTL_DATA,null}"}, {"root": "env"}),
    ({"_target_": "mine.Data", "root": "there", "path": "https"}, {"root": "there"}),
    ({"_target_": "mine.Data", "inner": {"_target_": "aectl.data.datasets.arrays", "path": "x"}}, {"inner.path": "x"}),
    ({"_target_": "aectl.data.datasets.arrays", "path": "???"}, {}),
    ({"_target_": "aectl.data.datasets.arrays", "path": "/x.npz"}, {}),
]


@pytest.mark.parametrize(("node", "expected"), PATHS)
def test_paths_of_data_become_absolute(tmp_path, monkeypatch, node, expected):
    here = tmp_path / "it's ${here}"
    (here / "there").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("AECTL_DATA", "env")
    config = OmegaConf.create({"dataset": node})
    make_data_paths_absolute(config)
    found = {key: OmegaConf.select(config.dataset, key) for key in expected}
    assert found == {key: str(here / value) for key, value in expected.items()}
    for key, value in node.items():
        if key not in expected and not isinstance(value, dict):
            stays = value if value != "~" else str(Path.home())
            assert OmegaConf.to_container(config.dataset)[key] == stays


def test_a_run_is_used_from_another_working_folder(aectl, tmp_path, monkeypatch):
    write(*images())
    write(*images(9, seed=1), "other.npz")
    train(aectl, *AE, *OWN, "dataset.test_path=./other.npz")
    train(aectl, *AE, *OWN, "dataset.test_path=./other.npz", "init_from=run", folder="next")
    stored = OmegaConf.load("next/.hydra/config.yaml")
    names = (stored.dataset.path, stored.dataset.test_path, stored.init_from)
    assert names == tuple(str(tmp_path / name) for name in ("own.npz", "other.npz", "run"))
    assert Run(Path("run")).record["command"].endswith("dataset.test_path=./other.npz hydra.run.dir=run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert aectl("eval", "run=../run", "only=codes", "figures=false")[0] == 0
    assert aectl("train", "resume=../run", "epochs=2")[0] == 0
    # As runs of earlier versions have them, from where they were trained.
    path = tmp_path / "next" / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace(f"{tmp_path}/", ""))
    with pytest.raises(ConfigError, match=r"own.npz does not exist"):
        package.dataset("../next")
    monkeypatch.chdir(tmp_path)
    assert len(package.dataset("next").split("test")) == 9


def never_saved(run):
    """Make a run one that was stopped before its first checkpoint."""
    shutil.rmtree(run.folder / "checkpoints")
    (run.folder / "metrics.csv").unlink()
    run.update(status="running", pid=None)


def weights(folder):
    return checkpoint.load(Path(folder, "checkpoints", "best.pt"))["model"]


@pytest.mark.slow
def test_a_run_that_begins_anew_starts_from_the_weights_that_it_started_from(aectl, monkeypatch):
    write(*images(30))
    words = (*AE, *OWN, "optimizer.lr=0")
    first = train(aectl, *words, folder="outputs/first")
    run = train(aectl, *words, "init_from=latest", "seed=1", folder="outputs/second")
    assert run.record["init_from"] == {
        "run": str(first.folder.absolute()),
        "weights": checkpoint.hash_weights(weights(first.folder)),
    }
    train(aectl, *words, "seed=2", folder="outputs/third")
    never_saved(run)
    (code, _, said), kept = aectl("train", "resume=outputs/second"), weights("outputs/first")
    assert code == 0, said
    assert all(torch.equal(value, kept[key]) for key, value in weights("outputs/second").items())

    never_saved(run)
    before = (run.folder / "run.json").read_text()
    best = first.checkpoint_path("best")
    aside = best.rename(best.with_name("aside"))
    assert refused(aectl("train", "resume=outputs/second"), f"init_from: no checkpoint {best.absolute()}")
    shutil.copy("outputs/third/checkpoints/best.pt", best)
    assert refused(aectl("train", "resume=outputs/second"), "have changed since this run started from them")
    shutil.move(aside, best)
    first.folder.rename("outputs/moved")
    assert refused(aectl("train", "resume=outputs/second"), "init_from: '")
    Path("outputs/moved").rename(first.folder)
    assert (run.folder / "run.json").read_text() == before

    # A run of an earlier version has only the word.
    run.update(init_from=None)
    for config in run.folder.glob(".hydra*/config.yaml"):
        stored = OmegaConf.load(config)
        stored.init_from = "latest"
        OmegaConf.save(stored, config)
    assert refused(aectl("train", "resume=outputs/second"), "does not say which run init_from=latest was")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("latest", "'{}/outputs/it\\'s'"),
        ("'latest'", "'{}/outputs/it\\'s'"),
        ("outputs/a,latest", "'{}/outputs/a','{}/outputs/it\\'s'"),
        ("choice(latest,latest)", "choice('{0}/outputs/it\\'s','{0}/outputs/it\\'s')"),
        ("null", "null"),
    ],
)
def test_all_jobs_of_a_sweep_start_from_the_same_run(aectl, tmp_path, monkeypatch, value, expected):
    for started, name in enumerate(("a", "it's")):
        Path("outputs", name).mkdir(parents=True)
        Path("outputs", name, "run.json").write_text(json.dumps({"started": str(started)}))
    typed = []
    monkeypatch.setattr(hydra_main, "launch_hydra", lambda name, words, task: typed.extend(words))
    assert aectl("train", "-m", "model.code=1,2", f"init_from={value}")[0] == 0
    assert typed[-1] == f"init_from={expected.format(tmp_path, tmp_path)}"
    assert refused(aectl("train", "-m", "init_from=nowhere"), "'nowhere' is not a run")


def test_a_sweep_goes_on_from_the_same_weights_and_where_its_paths_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    best = tmp_path / "first" / "checkpoints" / "best.pt"
    best.parent.mkdir(parents=True)
    best.write_bytes(b"weights")
    words = ["-m", "dataset.path=own.npz,~/x.npz", f"init_from='{tmp_path / 'first'}'", "seed=1,2"]
    Path("sweep").mkdir()
    jobs = plan.plan_jobs(Path("sweep"), [[words[2], f"seed={seed}"] for seed in (1, 2)])
    assert "init_from_first-seed_1" in jobs[0].folder.name
    for _ in range(2):
        plan.write_plan(Path("sweep"), words, jobs)
    plan.check_working_folder(Path("sweep"), words)
    best.write_bytes(b"others")
    with pytest.raises(ConfigError, match=r"the weights of .*first have changed since the sweep started"):
        plan.write_plan(Path("sweep"), words, jobs)
    best.unlink()
    plan.write_plan(Path("sweep"), words, jobs)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(ConfigError, match=f"started in\n  first: cd {tmp_path}"):
        plan.check_working_folder(tmp_path / "sweep", words)
    plan.check_working_folder(tmp_path / "sweep", ["dataset.path=/own.npz", "seed=1"])
