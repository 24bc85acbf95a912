"""Jobs of a sweep are ranked by a metric that means the same in all of them."""

import json

import pytest

from aectl.models.autoencoder import Autoencoder
from aectl.models.vae import VAE
from aectl.sweep.comparable_metric import compare
from aectl.sweep.results import read_jobs

SETTINGS = {"sparse": Autoencoder.metric_settings, "vae": VAE.metric_settings}


def sweep(folder, jobs, metrics="val/loss,val/mse,val/negative_elbo"):
    """Write the folders of jobs, each given by its overrides and the metrics of its best epoch, the second of three."""
    for number, (words, values) in enumerate(jobs):
        job = folder / f"{number}-x"
        job.mkdir()
        choices = {"model": "sparse", "noise": "none", "penalty": "l1", "dataset": "digits"}
        choices |= {key: value for key, _, value in (word.partition("=") for word in words) if key in choices}
        name = "val/loss"
        record = {
            "status": "done", "overrides": words, "choices": choices,
            "objective": {"name": name, "value": values[0], "epoch": 2},
            "goal": {"epochs": 3, "objective": name, "metric_settings": dict(SETTINGS.get(choices["model"], {}))},
        }  # fmt: skip
        (job / "run.json").write_text(json.dumps(record))
        shown = ",".join(map(str, values))
        lines = [f"epoch,{metrics}", *(f"{n},{shown if n == 2 else ','.join(['9'] * len(values))}" for n in (1, 2, 3))]
        (job / "metrics.csv").write_text("\n".join(lines) + "\n")
    return compare(read_jobs(folder))


@pytest.mark.parametrize(
    ("jobs", "metric", "best"),
    [
        # What changes the network or its training leaves the loss as it is.
        ([(["model.code=8"], [3, 0.3, 5]), (["model.code=9"], [2, 0.4, 4])], "val/loss", 1),
        ([(["optimizer.lr=1"], [3, 0.3, 5]), (["seed=9"], [2, 0.4, 4])], "val/loss", 1),
        # The loss contains the weight of the penalty: 0 would win.
        ([(["penalty.weight=0"], [2, 0.4]), (["penalty.weight=1"], [9, 0.3])], "val/mse", 1),
        ([(["penalty=none"], [2, 0.4]), (["penalty=l1"], [9, 0.3])], "val/mse", 1),
        ([(["model.loss=mse"], [2, 0.4]), (["model.loss=bce"], [9, 0.3])], "val/mse", 1),
        # Of a VAE the bound with β = 1 counts, unless what is bounded differs.
        ([(["model=vae", "model.beta=0"], [2, 0.1, 7]), (["model=vae", "model.beta=1"], [6, 0.3, 6])],
         "val/negative_elbo", 1),
        ([(["model=vae", "model.std=1"], [2, 0.4, 5]), (["model=vae", "model.std=.1"], [9, 0.3, 6])], "val/mse", 1),
        # Two models have two losses.
        ([(["model=sparse"], [2, 0.4]), (["model=vae"], [9, 0.3])], "val/mse", 1),
    ],
)  # fmt: skip
def test_jobs_are_ranked_by_what_means_the_same_in_all(tmp_path, jobs, metric, best):
    columns = ["val/loss", "val/mse", "val/negative_elbo"][: len(jobs[0][1])]
    found = sweep(tmp_path, jobs, ",".join(columns))
    assert found.is_fair and {job.metric for job in found.jobs} == {metric}
    assert min(found.jobs, key=lambda job: job.rank).number == best
    assert (f"ranked by {metric}" in found.notice) is (metric != "val/loss")


@pytest.mark.parametrize(
    "words",
    [
        (["noise.std=1"], ["noise.std=2"]),
        (["dataset=digits"], ["dataset=mnist"]),
        # model=vae would bring no noise, where the other one has it.
        (["model=sparse", "noise=gaussian"], ["model=vae"]),
    ],
)
def test_where_nothing_can_be_compared_no_job_is_the_best(tmp_path, words):
    found = sweep(tmp_path, [(words[0], [2, 0.4]), (words[1], [9, 0.3])], "val/loss,val/mse")
    assert not found.is_fair and "no other metric can be compared: try aectl eval" in found.notice
    assert [job.value for job in found.jobs] == [2, 9]


def test_a_damaged_record_or_table_changes_nothing(tmp_path):
    jobs = [(["penalty.weight=0"], [2, "x"]), (["penalty.weight=1"], [9, 0.3])]
    assert not sweep(tmp_path, jobs, "val/loss,val/mse").is_fair
    record = json.loads((tmp_path / "0-x/run.json").read_text())
    record["goal"]["metric_settings"] = {"loss": 5, "mse": "noise"}
    (tmp_path / "0-x/run.json").write_text(json.dumps(record))
    assert not compare(read_jobs(tmp_path)).is_fair
