"""A run folder from the internet, of which every file is a stranger's: what it asks for is refused, nothing is run.

Each attack has a canary: a file that it would make, or a number that it would set.
"""

import builtins
import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from omegaconf import OmegaConf

import aectl as package
from aectl.cli import resume
from aectl.config import ConfigError, check_trusted
from aectl.config.untrusted_files import read_config
from aectl.runs.run import Run
from aectl.sweep import read_jobs
from aectl.sweep.cluster import SlurmQueue
from aectl.training import checkpoint
from aectl.training.checkpoint import CheckpointError
from tests.faults.payload import Payload


def changed(run, change):
    """Change the stored config as text."""
    path = run / ".hydra" / "config.yaml"
    path.write_text(change(path.read_text()))


def with_keys(run, **keys):
    """Put keys into the stored config, in the place of those that are there."""
    path = run / ".hydra" / "config.yaml"
    path.write_text(OmegaConf.to_yaml({**OmegaConf.to_container(OmegaConf.load(path)), **keys}))


def pickled(kind, canary):
    """Return the bytes of a checkpoint with a payload in one of torch's formats."""
    state, stream = {"format": 1, "model": Payload(canary)}, io.BytesIO()
    if kind == "bare":
        return pickle.dumps(state)
    if kind == "torchscript":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/constants.pkl", pickle.dumps(()))
            archive.writestr("archive/data.pkl", pickle.dumps(Payload(canary)))
            archive.writestr("archive/version", "3")
        return stream.getvalue()
    torch.save(state, stream, _use_new_zipfile_serialization=kind == "zip")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "torchscript"])
def test_a_pickle_is_not_run(kept, tmp_path, tally, kind):
    run, canary = kept(), tmp_path / "canary"
    for name in ("best", "last"):
        Run(run).checkpoint_path(name).write_bytes(pickled(kind, canary))
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            package.load(run, name)
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            checkpoint.load(Run(run).checkpoint_path(name))
    assert not canary.exists()
    tally("attacks refused", 2)


def repacked(path, change=lambda name, content: content, packing=zipfile.ZIP_STORED):
    """Write a checkpoint's archive again, its members changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w", packing) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(stream.getvalue())


def test_a_checkpoint_cannot_be_larger_than_its_file(kept, tally):
    bomb, short, double = (kept(to=name) / "checkpoints" / "best.pt" for name in ("bomb", "short", "double"))
    repacked(bomb, lambda name, content: bytes(2**26) if name.endswith("data/0") else content, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**17
    repacked(short, lambda name, content: content[:16] if "/data/" in name else content)
    # A central directory that says of a member that it has 2 GB.
    content = double.read_bytes()
    at = content.rindex(b"PK\x01\x02")
    double.write_bytes(content[: at + 20] + (2**31 - 1).to_bytes(4, "little") * 2 + content[at + 28 :])
    for path in (bomb, short, double):
        with pytest.raises(CheckpointError, match="damaged"):
            package.load(path.parent.parent)
    tally("memory bombs refused", 3)


ODD_STATES = {
    "weights that are numbers": {"model": {"a": 5}},
    "weights without numbers": {"model": {"a": torch.empty(10**6, 10**6, device="meta")}},
    "one number in the place of all": {"model": {"a": torch.zeros(1).expand(10**6, 10**6)}},
    "no weights": {"model": []},
    "no shape": {"shape": None},
    "a shape of texts": {"shape": ["1", "8", "8"]},
    "negative sizes": {"shape": [1, -8, -8]},
    "a model for images of 10 million pixels a side": {"shape": [1, 10**7, 10**7]},
    "classes without end": {"classes": 10**30},
    "an epoch that is a text": {"epoch": "\x1b[2J"},
}


@pytest.mark.parametrize("what", ODD_STATES)
def test_a_checkpoint_that_promises_what_it_has_not_is_refused_in_a_line(kept, tally, what):
    path = kept() / "checkpoints" / "best.pt"
    torch.save({**torch.load(path, weights_only=True), **ODD_STATES[what]}, path)
    with pytest.raises(ValueError, match=r"damaged|does not fit|numbers need [\d.]+ PB"):
        package.load(path.parent.parent)
    tally("memory bombs refused")


RESUMED = (
    "metrics", "best_value", "epochs", "epoch", "step", "seconds", "rng", "meter", "norms", "optimizers", "stage",
)  # fmt: skip
WRONG = (
    None, "x", -1, 1.5, [], {}, {"a": "b"}, 10**400, float("nan"), float("-inf"), torch.zeros(2), torch.zeros(3, 3, 3),
)  # fmt: skip
NESTED = {
    "param_groups of numbers": ("param_groups", 5),
    "a rate that is a text": ("param_groups", [{"params": ["x"]}]),
    "weights counted below 0": ("state", {-1: {"step": 1}}),
    "weights that are texts": ("state", {"a": {"step": 1}}),
    "a memory that is a text": ("state", {0: {"step": "many"}}),
    "a memory of other weights": ("state", {0: {"exp_avg": torch.zeros(2, 2)}}),
    "a memory of more weights than there are": ("state", {99: {"step": torch.zeros(())}}),
    "one number in place of a memory": ("state", {0: {"exp_avg": torch.zeros(1).expand(2**16, 2**16)}}),
}


def damaged_state(run, change):
    """Change the content of a run's only checkpoint to go on from."""
    path = run / "checkpoints" / "last.pt"
    (run / "checkpoints" / "before.pt").unlink(missing_ok=True)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    return path


def test_a_field_of_another_kind_is_refused_where_the_checkpoint_is_read(kept, tally):
    run = kept("halfway")
    good = torch.load(run / "checkpoints/last.pt", weights_only=True)
    for field in RESUMED:
        refused = 0
        for value in WRONG:
            damaged_state(run, lambda state, field=field, value=value: state.update({**good, field: value}))
            try:
                checkpoint.load_newest(run / "checkpoints")
            except CheckpointError as error:
                refused += str(error).endswith(f"damaged: its '{field}' is not what aectl writes there")
        # What is left is possible: an objective of -1, no metrics.
        assert refused >= len(WRONG) - 3, field
        tally("damaged fields of checkpoints refused", refused)
        damaged_state(run, lambda state, field=field: [state.update(good), state.pop(field)])
        with pytest.raises(CheckpointError, match=f"damaged: it lacks '{field}'"):
            checkpoint.load_newest(run / "checkpoints")


@pytest.mark.parametrize("what", NESTED)
def test_an_optimizer_takes_no_memory_but_that_of_its_weights(kept, aectl, tally, what):
    run = kept("halfway")
    key, value = NESTED[what]

    def change(state):
        next(iter(state["optimizers"].values()))[key] = value

    damaged_state(run, change)
    code, _, err = aectl("train", f"resume={run}")
    assert (code == 2 and len(err.strip().splitlines()) <= 2 and "damaged" in err) or "does not fit this run" in err
    tally("memory bombs refused")


def test_a_pickle_calls_nothing_that_takes_memory_as_it_likes(kept, tally):
    path = kept() / "checkpoints" / "best.pt"
    # bytearray(2**31 - 1), which torch's own reader of weights allows.
    bomb = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    repacked(path, lambda name, content: bomb if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="its pickle calls builtins bytearray"):
        checkpoint.load(path)
    tally("memory bombs refused")


def test_a_file_of_holes_is_not_read(kept, tally):
    path = kept() / "checkpoints" / "best.pt"
    content = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
        file.seek(-len(content), 2)
        file.write(content)
    with pytest.raises(CheckpointError, match="it has 5,368,709,120 bytes, but only"):
        checkpoint.load(path)
    tally("memory bombs refused")


@pytest.mark.parametrize(("units", "said"), [(3_000_000, "does not fit this model"), (3 * 10**9, "need 768 GB")])
def test_a_config_that_asks_for_more_memory_than_its_checkpoint_needs_is_refused_before_it_takes_any(
    kept, tally, units, said
):
    run = kept()
    changed(run, lambda text: text.replace("- 8\n", f"- {units}\n"))
    with pytest.raises(ValueError, match=said):
        package.load(run)
    tally("memory bombs refused")


FORBIDDEN = [
    "os.system",
    "builtins.eval",
    "functools.partial",
    "importlib.import_module",
    # By way of what our modules and torch's import.
    "torch.nn.modules.module.torch.os.system",
    "torch.nn.modules.module.functools.partial",
    "torch.optim.optimizer.torch.load",
    "aectl.data.datasets.downloads.os.system",
    "aectl.data.datasets.np.load",
    "aectl.data.datasets.np.ndarray.tofile",
    "aectl.data.datasets.Path.write_text",
    "aectl.data.datasets.__builtins__.get",
    "aectl.data.datasets.__builtins__.__setitem__",
    "aectl.data.datasets.SPLITS.index",
    "aectl.models.vae.torch.hub.load",
    # Of ours and of torch's, but no part of a run: they write, fetch, start processes or take callables.
    "aectl.tensorboard.training.TensorBoard",
    "aectl.training.observers.CsvLog",
    "aectl.sweep.cluster.RayQueue",
    "aectl.sweep.SweepTable",
    "aectl.runs.run.Run",
    "aectl.runs.run.run_git",
    "aectl.data.downloads.run_package_manager",
    "aectl.data.datasets.Dataset",
    "aectl.data.datasets.load_array_sources",
    "aectl.data.datasets.build_published",
    "aectl.data.datasets.dataset",
    "aectl.data.datasets.published_dataset",
    "aectl.runs.loading.dataset",
    # Modules of torch's kind, and classes of the models' files, that are no parts of a run.
    "aectl.runs.export.Part",
    "aectl.training.functional_step.LossModule",
    "aectl.training.functional_step.ReplayRng",
    "aectl.models.base.Batch",
    "aectl.models.base.Encodes",
    "aectl.models.nade.Conditionals",
    "aectl.runs.export.write_file",
    "aectl.__main__.main",
    "torch.nn.Module.load_state_dict",
    "torch.nn.Embedding.from_pretrained",
    "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.init.xavier_uniform_",
    "torch.nn.functional.relu",
    "torch.optim.lr_scheduler.LambdaLR",
    # Look-alikes: a Cyrillic е, full-width letters, a dot too many, spaces.
    "aеctl.models.vae.VAE",
    "ａｅｃｔｌ.models.vae.VAE",
    "aectl..models.vae.VAE",
    " aectl.models.vae.VAE",
    "aectl.models.vae.VAE ",
    "aectl",
    "",
    5,
    True,
    ["os.system"],
    {"a": "os.system"},
]
PLACES = {
    "model": lambda node: {"model": node},
    "a list": lambda node: {"model": {"_target_": "torch.nn.Sequential", "_args_": [[{"x": node}]]}},
    "a partial": lambda node: {"model": {"_target_": "aectl.rng.Rng", "seed": {**node, "_partial_": True}}},
    "unbuilt": lambda node: {"dataset": {"_target_": "aectl.data.toy.toy", "_recursive_": False, "kind": node}},
    "a key of ones own": lambda node: {"tags": {"x": {"y": {**node, "_convert_": "object"}}}},
}


@pytest.mark.parametrize("target", FORBIDDEN, ids=str)
def test_a_stored_config_names_parts_of_a_run_alone(target, tally):
    for place in PLACES.values():
        with pytest.raises(ConfigError, match=r"stored config names|cannot find"):
            check_trusted(OmegaConf.create(place({"_target_": target})))
    tally("attacks refused", len(PLACES))


def test_a_class_that_only_says_where_it_is_from_is_not_called(monkeypatch, tally):
    for module, base in (("aectl.models.vae", object), ("torch.nn.modules.linear", torch.nn.Module)):
        posing = type("Posing", (base,), {"__module__": module})
        monkeypatch.setattr("aectl.models.vae.posing", posing, raising=False)
        with pytest.raises(ConfigError, match="stored config names"):
            check_trusted({"model": {"_target_": "aectl.models.vae.posing"}})
        tally("attacks refused")


def hostile_data(canary):
    """Return configs of data sets that would leave a canary when built."""
    yield {"_target_": "aectl.data.datasets.__builtins__.__setitem__", "_args_": ["canary", 1]}
    yield {"_target_": "aectl.tensorboard.training.TensorBoard", "folder": str(canary), "hparams": {}, "pictures": None}
    yield {"_target_": "aectl.data.datasets.downloads.os.mkdir", "path": str(canary)}


def test_what_a_config_names_is_not_called(kept, aectl, tmp_path, torture, tally):
    for number, node in enumerate(hostile_data(tmp_path / "canary")):
        run = kept(to=f"run{number}")
        with_keys(run, dataset=node)
        for use in (package.load, package.dataset):
            with pytest.raises(ConfigError, match="stored config names"):
                use(run)
        commands = (("train", f"resume={run}", "epochs=4"), ("eval", f"run={run}"), ("sample", f"run={run}"))
        for words in commands[: 3 if torture or not number else 0]:
            code, _, said = aectl(*words)
            assert code == 2, said
            assert "stored config names" in said
        assert not (tmp_path / "canary").exists()
        assert not hasattr(builtins, "canary")
        tally("attacks refused", 2)


def test_a_strangers_class_beside_the_run_is_imported_for_whoever_trusts_it_alone(kept, aectl, tmp_path, tally):
    run = kept()
    (tmp_path / "my_trap.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'canary')!r}).touch()")
    with_keys(run, penalty={"_target_": "my_trap.Penalty"}, trust=["my_trap"])
    for words in (("eval", f"run={run}"), ("train", f"resume={run}", "epochs=4")):
        assert "add trust=my_trap" in aectl(*words)[2]
    assert not (tmp_path / "canary").exists()
    aectl("eval", f"run={run}", "trust=my_trap")
    assert (tmp_path / "canary").exists()
    tally("attacks refused", 2)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "${oc.env:AECTL_DATA,${oc.env:SECRET}}",
        "${oc.decode:'${oc.env:SECRET}'}",
        "${oc.create:'{_target_: os.system}'}",
        "${hydra:runtime.cwd}",
        "${hydra:env}",
        "${oc.dict.values:tags}",
        "${aectl.scratch:}",
        "${now:%Y}",
        "${${tags.y}:SECRET}",
        "${ oc.env:SECRET }",
        r"\\${oc.env:SECRET}",
        "$${oc.env:SECRET}",
        "${tags.${tags.y}}",
    ],
)
def test_a_stored_config_asks_for_nothing_but_itself(kept, aectl, monkeypatch, torture, text, tally):
    monkeypatch.setenv("SECRET", "hunter2")
    run = kept()
    with_keys(run, tags={"x": text, "y": "oc.env"})
    if torture or text == "${oc.env:SECRET}":
        code, out, said = aectl("eval", f"run={run}", "only=[codes]")
        assert code == 2, out
        assert "which a stored config may not" in said
    assert not any(b"hunter2" in path.read_bytes() for path in run.rglob("*") if path.is_file())
    for ask in (lambda: package.load(run), lambda: package.dataset(run), lambda: resume.stored_config(Run(run))):
        with pytest.raises(ConfigError, match="may not"):
            ask()
    tally("attacks refused", 3)


def test_what_our_own_configs_ask_for_is_answered_and_more_if_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    path = tmp_path / "config.yaml"
    path.write_text("root: ${oc.env:AECTL_DATA,null}\na: {b: [1, 2]}\nc: ${a.b[1]}\nd: ${oc.env:SECRET}")
    with pytest.raises(ConfigError, match=r"add trust=oc\.env"):
        read_config(path)
    assert read_config(path, ["oc.env"]).d == "hunter2"


BOMBS = {
    "a tag": "x: !!python/object/apply:os.system ['touch CANARY']",
    "a tag of a class": "x: !!python/object/new:os.system ['touch CANARY']",
    "a module": "x: !!python/module:my_trap",
    "aliases": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
    "itself": "a: &a [*a]",
    "depth": f"x: {'[' * 3000}{']' * 3000}",
    "doubling": "\n".join(["x0: aaaaaaaaaa", *(f"x{i}: ${{x{i - 1}}}${{x{i - 1}}}" for i in range(1, 60))]),
    "length": "x: " + "a" * 2**18,
    "no mapping": "]",
    "not UTF-8": "x: \udcff",
}


@pytest.mark.parametrize("what", BOMBS)
def test_yaml_is_read_within_bounds(kept, tmp_path, what, tally):
    run = kept()
    content = (run / ".hydra" / "config.yaml").read_text() + BOMBS[what].replace("CANARY", str(tmp_path / "canary"))
    for name in ("config.yaml", "hydra.yaml"):
        (run / ".hydra" / name).write_text(content, errors="surrogateescape")
    with pytest.raises(ConfigError, match=r"cannot be read|interpolations"):
        package.load(run)
    assert resume.stored_choices(Run(run)) == {}
    assert not (tmp_path / "canary").exists()
    tally("attacks refused", 2)


GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device", "tags")
NO_PARTS = (5, "x", [1], {"_target_": None}, {"a": {"b": 1}}, "${tags}")


def test_a_part_that_is_none_is_told_in_a_line(kept, aectl, torture, tally):
    pairs = [(key, value) for key in GROUPS for value in NO_PARTS]
    for number, (key, value) in enumerate(pairs if torture else pairs[9:10]):
        run = kept(to=f"run{number}")
        with_keys(run, **{key: value})
        for words in (("eval", f"run={run}", "only=[codes]", "figures=false"), ("train", f"resume={run}")):
            code, _, said = aectl(*words)
            assert code in (0, 2), (key, value, said)
            assert len(said.splitlines()) <= 3, (key, value, said)
            tally("damaged configs reported")


def test_a_resumed_run_decides_neither_on_hydra_nor_on_what_else_is_composed(kept, aectl, tmp_path, tally):
    run, canary = kept("halfway"), tmp_path / "canary"
    call = {"_target_": "os.system", "command": f"touch {canary}"}
    hydra = {
        "run": {"dir": str(canary)},
        "launcher": call,
        "sweeper": call,
        "callbacks": {"x": call},
        "job": {"chdir": True, "env_set": {"CANARY": "1"}},
        "job_logging": {"version": 1, "handlers": {"x": {"()": "os.system", "command": f"touch {canary}"}}},
        "searchpath": [f"file://{tmp_path}"],
        "output_subdir": "elsewhere",
    }
    defaults = ["train_schema", {"override /hydra/launcher": "joblib"}, "_self_"]
    with_keys(run, hydra=hydra, defaults=defaults, trust=["os", "posix"], max_time=None)
    (run / ".hydra" / "hydra.yaml").write_text(OmegaConf.to_yaml({"hydra": hydra}))
    code, out, said = aectl("train", f"resume={run}")
    assert code == 0, said
    assert "CANARY" not in os.environ
    assert not canary.exists()
    assert not (run / "elsewhere").exists()
    stored = OmegaConf.load(run / ".hydra.1" / "config.yaml")
    assert stored.trust == []
    tally("attacks refused", len(hydra) + 2)


def test_a_stored_config_starts_no_crowd_of_processes(kept, aectl, tally):
    run = kept()
    changed(run, lambda text: text.replace("count: null", "count: 5000"))
    code, _, said = aectl("train", f"resume={run}", "epochs=4")
    assert code == 2
    assert "asks for 5000 processes" in said
    tally("attacks refused")


def test_a_device_in_the_record_is_no_config(kept, tally):
    run = kept()
    record = json.loads((run / "run.json").read_text())
    for value in ({"_target_": "os.system"}, "${oc.env:SECRET}", True, 10**400):
        (run / "run.json").write_text(json.dumps({**record, "device": {**record["device"], "threads": value}}))
        with pytest.raises(ConfigError, match="damaged: its 'device'"):
            resume.stored_config(Run(run))
        tally("attacks refused")


SWEEPS = [
    ["-m", "model._target_=os.system"],
    ["-m", "model={_target_: os.system}"],
    ["-m", "'model={_target_: os.system}'"],
    ["-m", "--config-dir=evil"],
    ["-m", "-cd", "evil"],
    ["-m", "hydra.searchpath=[evil]"],
    ["-m", "+hydra.callbacks.x._target_=os.system"],
    ["-m", "hydra.job.env_set.LD_PRELOAD=evil.so"],
    ["-m", "hydra.job_logging.formatters.message.class=evil.Class"],
    ["-m", "hydra.launcher.settings.slurm_setup=[evil]"],
    ["-m", "tags.x=${oc.env:SECRET}"],
]


@pytest.mark.parametrize("words", SWEEPS, ids=lambda words: words[1])
def test_a_sweep_of_a_stranger_chooses_among_our_settings_alone(aectl, tmp_path, words, tally):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"format": 1, "command": words, "jobs": []}))
    code, _, said = aectl("train", "-m", "resume=sweep")
    assert code == 2
    assert "may not ask for that" in said
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.json"]
    tally("attacks refused")


def test_what_a_queue_hands_back_is_no_pickle_that_was_there_before(tmp_path, tally):
    pytest.importorskip("submitit")
    canary, planted = tmp_path / "canary", tmp_path / ".submitit" / "1_0_result.pkl"
    planted.parent.mkdir()
    planted.write_bytes(pickle.dumps(("success", Payload(canary))))
    SlurmQueue(tmp_path, "local", {})
    assert not planted.exists()
    assert not canary.exists()
    tally("attacks refused")


@pytest.mark.parametrize(
    "content", ["[]", '{"objective": {"value": "x"}}', '{"overrides": [1]}', "{", '{"started": 5}']
)
def test_a_job_of_a_stranger_counts_as_failed_if_its_record_is_damaged(tmp_path, content):
    (tmp_path / "0-x" / ".hydra").mkdir(parents=True)
    (tmp_path / "0-x" / "run.json").write_text(content)
    (tmp_path / "0-x" / ".hydra" / "overrides.yaml").write_text(BOMBS["aliases"])
    assert [(job.status, job.settings) for job in read_jobs(tmp_path)] == [("failed", {})]


def test_modules_that_lie_beside_a_run_are_out_of_reach(kept, aectl, tmp_path, monkeypatch):
    run = kept()
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path not in ("", str(tmp_path))])
    for words in (
        ("eval", f"run={run}", "only=[codes]", "figures=false"),
        ("sample", f"run={run}", "kind=chain", "n=2"),
    ):
        assert aectl(*words)[0] == 0
        assert str(tmp_path) not in __import__("sys").path
