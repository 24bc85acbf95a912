"""Own data that a stranger's config names: read only if this user has typed their path, here or for that very run."""

import numpy as np
import pytest
from omegaconf import OmegaConf

import aectl as package
from aectl.config import ConfigError, check_trusted
from aectl.config.data_paths import check_paths, find_data_paths
from aectl.config.user_signature import is_signed, key_path, sign
from aectl.runs.run import Run
from tests.faults.test_strangers import with_keys

ARRAYS = "aectl.data.datasets.arrays"
SMALL = ("model.encoder.widths=[4]", "model.decoder.widths=[4]", "model.code=2", "epochs=1", "device.threads=1")


@pytest.fixture
def private(tmp_path):
    path = tmp_path / "private.npy"
    (tmp_path / "photos").mkdir()
    np.save(path, np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    return path


def test_a_strangers_run_reads_no_data_of_the_readers(kept, aectl, private, torture, tally):
    folder = private.parent / "photos"
    for number, node in enumerate(
        ({"_target_": ARRAYS, "path": str(private)}, {"_target_": "aectl.data.folder.folder", "root": str(folder)})
    ):
        run = kept(to=f"run{number}")
        with_keys(run, dataset=node)
        with pytest.raises(ValueError, match="outside of its folder; if it may, add trust="):
            package.dataset(run)
        commands = (("train", f"resume={run}", "epochs=4"), ("eval", f"run={run}"), ("sample", f"run={run}"))
        for words in commands if torture else commands[: 2 - number]:
            before = sorted(path for path in run.rglob("*") if path.suffix == ".png")
            code, _, said = aectl(*words)
            assert (code, "add trust=" in said) == (2, True), said
            assert before == sorted(path for path in run.rglob("*") if path.suffix == ".png")
            tally("own data and modules kept from stored configs")


def test_what_needs_no_data_works_without_them(kept, aectl, private):
    run = kept("rbm")
    with_keys(run, dataset={"_target_": ARRAYS, "path": str(private)})
    assert aectl("sample", f"run={run}", "kind=chain", "n=2", "steps=2")[0] == 0


def test_ones_own_run_reads_its_own_data_unasked_and_no_others(aectl, private, tmp_path):
    run = tmp_path / "run"
    code, _, said = aectl("train", "dataset=arrays", f"dataset.path={private}", *SMALL, f"hydra.run.dir={run}")
    assert code == 0, said
    moved = run.rename(tmp_path / "moved")
    assert len(package.dataset(moved).split("test"))
    assert aectl("train", f"resume={moved}", "epochs=2")[0] == 0
    other = private.rename(tmp_path / "other.npy")
    for path in moved.glob(".hydra*/config.yaml"):
        path.write_text(path.read_text().replace(str(private), str(other)))
    with_keys(moved, dataset={"_target_": ARRAYS, "path": str(other)})
    with pytest.raises(ValueError, match="outside of its folder"):
        package.dataset(moved)
    # The signature is of that path, on this machine.
    record = Run(moved).record
    (signature,) = record["own_paths"].values()
    Run(moved).update(own_paths={str(other): signature})
    with pytest.raises(ValueError, match="outside of its folder"):
        package.dataset(moved)
    assert len(package.dataset(moved, trust=str(other), changed=True).split("test"))
    assert len(package.dataset(moved, trust=[str(tmp_path)], changed=True).split("test"))


def test_a_path_leads_where_its_links_lead(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    (run / "link").symlink_to(outside)
    check_paths({"path": str(run / "x.npy")}, run, {}, [])
    for path in (run / "link" / "x.npy", run / ".." / "outside" / "x.npy", tmp_path / "run2" / "x.npy"):
        with pytest.raises(ConfigError, match="outside of its folder"):
            check_paths({"path": str(path)}, run, None, [])
        with pytest.raises(ConfigError, match="outside of its folder"):
            check_paths({"path": str(path)}, run, {str(path): "0" * 64}, [str(run), "outside"])
    check_paths({"path": str(outside / "x.npy")}, run, {}, [str(outside)])


def test_a_data_set_stands_where_its_paths_are_seen(tally):
    nodes = (
        {"dataset": {"_target_": "aectl.data.datasets.mnist", "_args_": ["/tmp/x"]}},
        {"dataset": {"_target_": "aectl.data.patches.patches", "_args_": ["mnist", 3, 1, 0.5, False, "/tmp/x"]}},
        {"dataset": {"_target_": "aectl.data.datasets.build_published", "name": "mnist", "root": "/tmp/x"}},
        {"model": {"_target_": ARRAYS, "path": "/tmp/x"}},
        {"penalty": {"x": [{"_target_": "aectl.data.datasets.mnist", "root": "/tmp/x"}]}},
    )
    for node in nodes:
        with pytest.raises(ConfigError, match="the stored config names"):
            check_trusted(OmegaConf.create(node))
        tally("own data and modules kept from stored configs")
    inner = {"_target_": "my.Data", "of": {"_target_": "aectl.data.datasets.mnist", "root": "/usr"}, "path": "/tmp"}
    assert find_data_paths(OmegaConf.create(inner), ["my"]) == {"dataset.of.root": "/usr"}


def test_what_names_a_path_trusts_no_module(tally):
    for trust in ("./os", "/os", "~os", "os/../os"):
        with pytest.raises(ConfigError, match="the stored config names"):
            check_trusted({"model": {"_target_": trust}}, [trust])
        tally("own data and modules kept from stored configs")


@pytest.mark.parametrize("name", ["${tags.x}", "a${tags.x}b"])
def test_the_name_of_a_folder_is_no_interpolation(kept, aectl, tmp_path, name, tally):
    victim = kept("halfway", to="victim")
    run = kept("halfway", to=f"evil/{name}")
    with_keys(run, tags={"x": "../../victim"})
    before = {path: path.stat().st_mtime_ns for path in victim.rglob("*")}
    for words in (("train", f"resume={run}"), ("eval", f"run={run}", "only=[codes]", "figures=false")):
        code, _, said = aectl(*words)
        assert code == 0, said
    assert Run(run).record["resumed"]
    assert (run / "metrics.json").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in victim.rglob("*")}
    tally("attacks refused", 2)


def test_a_signature_is_of_one_key_and_of_one_content(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    signature = sign("path", "/x")
    assert key_path().stat().st_mode & 0o777 == 0o600
    assert is_signed(signature, "path", "/x")
    assert not any(is_signed(signature, *other) for other in (("path", "/y"), ("sweep", "/x"), ("path",)))
    assert not any(is_signed(other, "path", "/x") for other in (None, "", "é", 5, signature[:-1], {}))
    key_path().unlink()
    assert not is_signed(signature, "path", "/x")
    # Without a place for a key nothing is one's own, and nothing fails.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert sign("path", "/x") is None
