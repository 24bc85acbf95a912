"""Jobs on other machines, for which this one stands in: submitit's local queue, and a Ray cluster of two nodes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from aectl.config import ConfigError
from aectl.sweep.cluster import launch_on_ray
from tests.typed import QUICK, begin, jobs, record, rows, sweep_folder, type_in, wait_until


@pytest.mark.slow
def test_an_array_of_slurm_trains_all_and_lists_what_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("submitit")
    code, said = type_in("sweep=slurm", "hydra.launcher.cluster=local", *QUICK[:-1], "model.code=8,0", "epochs=2")
    assert code == 1, said
    assert "failed       1  model.code=0  model: code must be at least 1, not 0" in said
    assert [record(job)["status"] for job in jobs(sweep_folder())] == ["done", "failed"]
    assert all("device.threads=4" in record(job)["overrides"] for job in jobs(sweep_folder()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "message"), [("slurm", "aectl: slurm: Could not detect"), ("ray", "aectl: ray: Could not find any")]
)
def test_without_a_cluster_it_is_said_in_a_line(tmp_path, monkeypatch, sweep, message):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip({"slurm": "submitit"}.get(sweep, sweep))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, said = type_in(f"sweep={sweep}", *QUICK, "seed=0,1")
    assert code == 2
    assert said.startswith(message) and len(said.splitlines()) == 1


def test_ray_takes_no_number_of_jobs(tmp_path):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(ConfigError, match=r"^jobs=3: Ray runs as many jobs at a time as fit"):
        launch_on_ray(config, [], 0, None, jobs=3, fail_fast=False, address=None, cpus=1, gpus=0)


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "module"), [("slurm", "submitit"), ("ray", "ray"), ("optuna", "optuna")])
def test_a_missing_engine_is_named_with_its_extra(tmp_path, monkeypatch, sweep, module):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shadow" / module).mkdir(parents=True)
    (tmp_path / "shadow" / module / "__init__.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path / "shadow"), str(Path(__file__).parents[1])])
    command = [sys.executable, "-m", "aectl", "train", "-m", f"sweep={sweep}", *QUICK, "seed=0,1"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert f"pip install 'aectl[{sweep}]'" in done.stderr


@pytest.fixture
def ray_cluster(monkeypatch):
    """Start a head and a worker with one core each; yield the address and a function that kills the worker."""
    # So that Ray keeps to the loopback, read when it is imported.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    here = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**here, "include_dashboard": False})
    worker = cluster.add_node(**here)
    cluster.wait_for_nodes()
    yield cluster.address, lambda: cluster.remove_node(worker, allow_graceful=False)
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_that_loses_a_machine_ends_the_sweep_whole(tmp_path, monkeypatch, ray_cluster):
    monkeypatch.chdir(tmp_path)
    address, kill = ray_cluster
    words = (*QUICK, "seed=0,1,2", "epochs=100")
    process = begin("sweep=ray", f"hydra.launcher.address='{address}'", *words)
    wait_until(lambda: len(list(tmp_path.glob("outputs/multirun/*/*/checkpoints/last.pt"))) == 2)
    kill()
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    folder = sweep_folder()
    assert [record(job)["status"] for job in jobs(folder)] == ["done"] * 3
    assert all(len(rows(job)) == 100 for job in jobs(folder))
    # One of them was cut short with the machine, and went on elsewhere.
    assert any("resumed" in record(job) for job in jobs(folder))
