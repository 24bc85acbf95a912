"""The table at the end of a sweep, from run folders alone."""

import csv
import html
import json
import math
import re
import shlex

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from aectl.sweep import SweepTable, read_jobs, table
from aectl.sweep.number_formats import align_numbers, format_intervals, format_p_value


def write_job(folder, number, overrides, value=None, **record):
    job = folder / f"{number}-job"
    job.mkdir(parents=True)
    record = {"status": "done", "error": None, "overrides": overrides, "seconds": 1.5, **record}
    if value is not None:
        record["objective"] = {"name": "val/loss", "value": value, "epoch": 7}
    (job / "run.json").write_text(json.dumps(record))


def close(folder, capsys):
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    return capsys.readouterr().out


def rows_of(folder):
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_jobs_are_sorted_by_objective_and_the_best_is_marked(tmp_path, capsys):
    for number, (code, value) in enumerate([(2, 3.0), (8, 1.0), (32, 2.0)]):
        write_job(tmp_path, number, ["dataset=digits", f"++model.code={code}"], value)
    lines = [line.split() for line in close(tmp_path, capsys).splitlines() if line.strip()]
    assert lines[0] == ["job", "model.code", "val/loss", "epoch", "seconds", "status"]
    assert lines[1] == ["*", "1", "8", "1", "7", "1.5", "done"]
    assert [line[0] for line in lines[2:4]] == ["2", "0"]
    assert [row["model.code"] for row in rows_of(tmp_path)] == ["8", "32", "2"]
    assert "dataset" not in rows_of(tmp_path)[0]


def test_seeds_are_grouped_too(tmp_path, capsys):
    for number, (code, seed, value) in enumerate([(2, 0, 1.0), (2, 1, 3.0), (8, 0, 0.5), (8, 1, 0.5)]):
        write_job(tmp_path, number, [f"model.code={code}", f"seed={seed}"], value)
    table = [line.split() for line in close(tmp_path, capsys).splitlines()]
    assert ["model.code", "mean", "val/loss", "±", "std", "95", "%", "(t)", "seeds", "p"] in table
    assert table.index(["8", "0.5", "0.0", "0.500", "…", "0.500", "2"]) < table.index(
        ["2", "2.0", "1.4", "-10.706", "…", "14.706", "2", "-"]
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_both_tables_fit_the_terminal_and_lack_nothing(width, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    # The tables alone; the page's figures take seconds.
    monkeypatch.setattr(table, "write_report", lambda *_: None)
    widths = ["[1000,500,250]", "[64]"]
    for number in range(8):
        settings = [
            f"seed={number % 2}",
            f"optimizer.lr={10.0 ** -(number % 4)}",
            f"model.widths={widths[number // 4]}",
        ]
        write_job(tmp_path, number, [*settings, "dataset.root=/a/very/long/path/to/photos"][: 3 + number // 4], 1.0 / 3)
    # Paths and commands stay whole, notices are wrapped.
    lines = [line for line in close(tmp_path, capsys).splitlines() if not line.startswith(("sweep", "page", "next"))]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text.replace(" … ", "")
    # Each job's number is in each block of its table.
    blocks = sum(line.strip().startswith("job") for line in lines)
    assert all(sum(line[:4].split("*")[-1].strip() == str(job) for line in lines) == blocks for job in range(8))
    for whole in ("optimizer.lr", "val/loss", "0.33333", "done", *widths, "0.001"):
        assert whole in text


def test_a_single_setting_over_seeds(tmp_path, capsys):
    for seed in range(3):
        write_job(tmp_path, seed, [f"seed={seed}"], float(seed))
    assert ["1", "1", "-1.4841", "…", "3.4841", "3"] in [line.split() for line in close(tmp_path, capsys).splitlines()]


def test_failures_come_last_are_listed_and_end_in_code_1(tmp_path, capsys):
    write_job(tmp_path, 0, ["model.code=0"], status="failed", error="Traceback\nConfigError: code must be at least 1")
    write_job(tmp_path, 1, ["model.code=2"], 5.0)
    write_job(tmp_path, 2, ["model.code=3"], status="running")
    (tmp_path / "3-job" / ".hydra").mkdir(parents=True)
    (tmp_path / "3-job" / ".hydra" / "overrides.yaml").write_text("- model.code=4\n")
    with pytest.raises(SystemExit) as stop:
        close(tmp_path, capsys)
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "3 of 4 runs failed" in out
    assert "  0  model.code=0  ConfigError: code must be at least 1" in out
    assert "  2  model.code=3  it ended without an error message" in out
    assert "  3  model.code=4  it left no readable run.json" in out
    assert [row["job"] for row in rows_of(tmp_path)] == ["1", "0", "2", "3"]


def test_runs_without_an_objective_stand_between(tmp_path, capsys):
    write_job(tmp_path, 0, ["seed=0"], status="interrupted")
    write_job(tmp_path, 1, ["seed=1"], float("nan"))
    write_job(tmp_path, 2, ["seed=2"], 1.0)
    assert "interrupted" in close(tmp_path, capsys)
    assert [row["job"] for row in rows_of(tmp_path)] == ["2", "0", "1"]


def test_times_are_told_by_start_and_end_where_no_seconds_are(tmp_path):
    times = {"started": "2026-01-31T12:00:00+00:00", "ended": "2026-01-31T12:01:30.5+00:00"}
    write_job(tmp_path, 0, [], 1.0, seconds=None, **times)
    assert read_jobs(tmp_path)[0].seconds == 90.5


def test_brackets_in_values_are_no_markup(tmp_path, capsys):
    write_job(tmp_path, 0, ["model.widths=[red]"], 1.0)
    write_job(tmp_path, 1, ["model.widths=[/red]"], 2.0)
    out = close(tmp_path, capsys)
    assert "[red]" in out
    assert "[/red]" in out


def test_unlike_objectives_are_ranked_apart(tmp_path, capsys):
    for number, (model, name, value) in enumerate([("vae", "val/loss", 9.0), ("gan", "val/energy", 1.0)]):
        write_job(tmp_path, number, [f"model={model}"], status="done", objective={"name": name, "value": value})
    lines = close(tmp_path, capsys).splitlines()
    assert len([line for line in lines if line.startswith("*")]) == 2
    assert any("val/loss 9" in line for line in lines)


def test_figures_and_a_page_show_what_was_swept(tmp_path, capsys):
    for number, (code, rate, value) in enumerate([(2, 0.001, 3.0), (8, 0.01, 1.0), (32, 0.1, 2.0)]):
        write_job(tmp_path, number, [f"model.code={code}", f"optimizer.lr={rate}", "noise=none"], value)
        rows = "".join(f"{epoch},{value + 1 / epoch}\n" for epoch in (1, 2, 3))
        (tmp_path / f"{number}-job" / "metrics.csv").write_text(f"epoch,val/loss\n{rows}")
    close(tmp_path, capsys)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"curves", "parameters", "parallel"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "optimizer.lr" in page and "0.01" in page
    assert "3 runs" in page and "checkpoint" not in page


RECORD = {"choices": {"model": "dae", "dataset": "digits"}, "versions": {"aectl": "0.1.0"}}


def page_of(folder, capsys):
    close(folder, capsys)
    return html.unescape((folder / "report.html").read_text())


def test_the_page_names_model_data_settings_and_the_command_that_was_typed(tmp_path, capsys):
    typed = ["aectl", "train", "-m", "model=dae", "seed=0,1", "jobs=1", "tags.why=it's a <b>$x</b>"]
    for seed in range(3):
        words = ["dataset=digits", "epochs=5", f"seed={seed}"]
        write_job(tmp_path, seed, words, 3.0 - seed, **RECORD) if seed else write_job(
            tmp_path, 0, words, status="failed", error="no room"
        )
    plan = {"format": 1, "typed": typed, "command": ["-m", "model=dae", "hydra.launcher.jobs=1"], "jobs": []}
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(SystemExit):
        page_of(tmp_path, capsys)
    text = html.unescape((tmp_path / "report.html").read_text())
    assert "<h1>dae on digits: sweep of seed</h1>" in text
    assert f"{tmp_path.name} · 3 runs: 2 done, 1 failed" in text
    (typed_line,) = re.findall(r"^.*tags.why.*$", text, re.MULTILINE)
    assert shlex.split(typed_line.partition(">")[2]) == typed
    assert f"aectl train -m resume={tmp_path}" in text
    assert "Best run: job 2 (seed=2), val/loss 1." in text
    for name, value in (("model", "dae"), ("data set", "digits"), ("other settings typed", "epochs=5")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text
    assert "no room" in text
    assert "<b>$x" not in (tmp_path / "report.html").read_text()
    # Older sweeps have only the words that Hydra was given; in a stranger's each word is quoted.
    (tmp_path / "sweep.json").write_text(json.dumps({**plan, "typed": None, "command": ["-m", "seed=1; rm x"]}))
    with pytest.raises(SystemExit):
        page_of(tmp_path, capsys)
    assert "aectl train -m 'seed=1; rm x'" in html.unescape((tmp_path / "report.html").read_text())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 1.1, 2.0, 2.1], "code=2 1.05, significantly better than model.code=4 2.05 (Welch's test, p = 0.005)"),
        ([1.0, 3.0, 2.0, 2.1], "code=2 2, not significantly better than model.code=4 2.05 (Welch's test, p = 0.97)"),
        ([1.0, 1.0, 2.0, 2.0], "code=2 1, not significantly better than model.code=4 2 (Welch's test)"),
    ],
)
def test_the_page_says_whether_the_best_setting_is_better_as_far_as_seeds_can_tell(tmp_path, capsys, values, said):
    for number, value in enumerate(values):
        write_job(tmp_path, number, [f"model.code={2 + 2 * (number > 1)}", f"seed={number % 2}"], value)
    page = page_of(tmp_path, capsys)
    assert said in page
    assert 'scope="row">jobs 0, 1<' in page and 'scope="row">jobs 2, 3<' in page


def test_a_sweep_of_one_run_has_a_page_too(tmp_path, capsys):
    write_job(tmp_path, 0, ["model=dae"], 1.0)
    assert "Best run: job 0, val/loss 1." in page_of(tmp_path, capsys)


def test_intervals_and_p_values_over_seeds():
    alone, several = format_intervals([[1.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    low, high = map(float, several.split(" … "))
    assert alone == "-"
    # t for 4 degrees of freedom is 2.776, the standard error √(2.5 / 5).
    assert (low, high) == pytest.approx((3 - 2.776 * 0.5**0.5, 3 + 2.776 * 0.5**0.5), abs=0.001)
    assert format_intervals([[2.0, 2.0]]) == ["2 … 2"]
    assert format_p_value([1.0], [2.0, 3.0]) == "-"
    assert format_p_value([1.0, 1.0], [2.0, 2.0]) == "-"
    # Means 2 and 12 with standard errors of 1 / √3 each: t = 12.2 at 4 degrees of freedom.
    assert float(format_p_value([1.0, 2.0, 3.0], [11.0, 12.0, 13.0])) == pytest.approx(0.00026, rel=0.05)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([3.57, 2.8766, math.nan], ["3.5700", "2.8766", "-"]),
        ([3.0, 12.0], ["3", "12"]),
        ([7.5172, 15.342, -1.5], ["7.5172", "15.3420", "-1.5000"]),
        ([1e-7, 1.0], ["1e-07", "1"]),
        ([0.00123456, 12345.6], ["0.0012346", "12346"]),
        ([], []),
    ],
)
def test_numbers_of_a_column_have_the_same_decimals(values, texts):
    assert align_numbers(values) == texts


def test_the_end_has_the_sweep_its_page_and_the_next_command_to_paste(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "a b"
    write_job(folder, 0, ["seed=0"], 1.0)
    assert close(folder, capsys).splitlines()[-3:] == [
        "sweep 'outputs/a b'",
        "page  'outputs/a b/report.html'",
        "next  aectl eval 'run=outputs/a b'",
    ]
    # Without a single result there is nothing to evaluate.
    write_job(tmp_path / "failed", 0, ["seed=0"], status="failed", error="boom")
    with pytest.raises(SystemExit):
        close(tmp_path / "failed", capsys)
    out = capsys.readouterr().out
    assert "1 of 1 run failed" in out and "page  failed/report.html" in out and "next" not in out


def test_settings_that_are_lists_and_small_numbers(tmp_path, capsys):
    for number, (widths, lr, seed) in enumerate([("[8]", "1e-4", 0), ("[8]", "1e-4", 1), ("[9]", "1e-3", 0)]):
        write_job(tmp_path, number, [f"model.widths={widths}", f"optimizer.lr={lr}", f"seed={seed}"], 1.0 + number)
    close(tmp_path, capsys)
    (folder,) = (tmp_path / "seeds").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    begins = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(begins).session_start_info.hparams
    assert (hparams["model.widths"].string_value, hparams["optimizer.lr"].number_value) == ("[8]", 1e-4)


@pytest.mark.parametrize("failures", [0, 1])
def test_a_sweep_whose_report_is_lost_exits_with_one(tmp_path, capsys, monkeypatch, failures):
    write_job(tmp_path, 0, ["seed=0"], 1.0)
    write_job(tmp_path, 1, ["seed=1"], 2.0)
    if failures:
        write_job(tmp_path, 2, ["seed=2"], status="failed", error="boom")
    monkeypatch.setattr("aectl.sweep.table.write_report", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        close(tmp_path, capsys)
    assert ended.value.code == 1
    assert "pages are incomplete: ZeroDivisionError" in capsys.readouterr().err


def test_what_seeds_come_to_stands_on_tensorboards_page(tmp_path, capsys):
    for number, (code, seed, value) in enumerate([(4, 0, 1.0), (4, 1, 3.0), (8, 0, 5.0)]):
        write_job(tmp_path, number, [f"model.code={code}", f"seed={seed}"], value)
    close(tmp_path, capsys)
    # Of a setting with a single seed there is no mean.
    (folder,) = (tmp_path / "seeds").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found["seeds/mean"] == 2 and found["seeds/std"] == pytest.approx(2**0.5)
    # t for one degree of freedom is 12.706, the standard error 1.
    assert [found["seeds/low"], found["seeds/high"]] == pytest.approx([2 - 12.706, 2 + 12.706], abs=0.001)
    begins = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(begins).session_start_info.hparams
    assert (hparams["Model code"].number_value, hparams["seeds"].number_value) == (4, 2)
    assert found["Objective/val/loss"] == 2
    close(tmp_path, capsys)
    assert len(list(folder.iterdir())) == 1
    page = (tmp_path / "report.html").read_text()
    assert "Means over seeds" in page and "-10.706 … 14.706" in page and "the other rows are baselines" not in page


@pytest.mark.parametrize(
    ("settings", "metrics"),
    [
        (("noise.std=2", "noise.std=1"), ("val/loss", "val/loss")),  # the noise is part of the loss
        (("model=vae", "model=gan"), ("val/loss", "val/energy")),
    ],
)
def test_means_that_cannot_be_compared_are_listed_without_ranks_or_p_values(tmp_path, capsys, settings, metrics):
    for number, value in enumerate([9.0, 9.5, 1.0, 1.5]):
        objective = {"name": metrics[number // 2], "value": value, "epoch": 7}
        write_job(tmp_path, number, [settings[number // 2], f"seed={number % 2}"], objective=objective)
        (tmp_path / f"{number}-job" / "metrics.csv").write_text(f"epoch,{objective['name']}\n7,{value}\n")
    said = close(tmp_path, capsys)
    page = html.unescape((tmp_path / "report.html").read_text()).partition("<body")[2]
    assert "no other metric can be compared" in said
    assert "Welch" not in said + page and "significantly" not in page
    names = [setting.partition("=")[2] for setting in settings]
    means = said.partition("mean val/")[2].splitlines()[1:3]
    assert [line.split()[:2] for line in means] == [[names[0], "9.25"], [names[1], "1.25"]]
    assert "Means over seeds, in the order of the jobs" in page
    assert page.index(f">{names[0]}<") < page.index(f">{names[1]}<")
    # Of two metrics, each has a best run.
    assert ("best" in page.lower().replace("best value", "")) is (metrics[0] != metrics[1])
