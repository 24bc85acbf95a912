"""Several evaluated runs in ranked tables, from run folders alone."""

import csv
import json
import math
import re

import pytest

from aectl import leaderboard
from aectl.commands.eval_columns import describe_tables
from aectl.config import ConfigError
from aectl.leaderboard.boards import format_labels
from aectl.leaderboard.entries import index_to_letters, make_labels
from aectl.metric import Metric
from aectl.models.base import Model
from aectl.runs.metrics_json import best_rows, format_cell, format_column, tables_of

TITLES = {"reconstruction": "reconstruction", "likelihood": "likelihood, nats per image"}


def write_run(folder, name, overrides=(), config="model: {code: 32}\n", choices=None, objective=None, **section):
    """Write what the leaderboard reads of a run; keywords are tables."""
    run = folder / name
    (run / ".hydra").mkdir(parents=True)
    choices = {"model": "dae", "dataset": "digits", "noise": "none", "penalty": "none", **(choices or {})}
    record = {"status": "done", "overrides": list(overrides), "choices": choices, "objective": objective or {}}
    (run / "run.json").write_text(json.dumps(record))
    (run / ".hydra" / "config.yaml").write_text(config if "model:" in config else f"model: {{}}\n{config}")
    section = {"checkpoint": "best", "epoch": 3, "images": 360, "titles": TITLES, "missing": {}, **section}
    section["columns"] = describe_tables(tables_of(section), Model)
    (run / "metrics.json").write_text(json.dumps({"test": section}))
    return run


def reconstruction(mse, **others):
    return {"model": {"mse": mse, "mse_ci95": mse / 50, "psnr": -10 * math.log10(mse), "ssim": 1 - mse}, **others}


def names(table, kind="run"):
    return [line.name for line in table.lines if line.kind == kind]


def only_board(*runs):
    (board,) = leaderboard.build_boards(runs)
    return board


def test_runs_on_other_images_of_ones_own_are_in_other_tables(tmp_path):
    runs = []
    for number, digest in enumerate(("a", "a", "b", None, "a")):
        changed = {"data": "changed"} if number == 4 else {}
        runs.append(write_run(tmp_path, str(number), split="test", reconstruction=reconstruction(0.1), **changed))
        path = runs[-1] / "run.json"
        data = {"data": {"test_digest": digest, "test_labels": "c"}} if digest else {}
        path.write_text(json.dumps({**json.loads(path.read_text()), **data}))
    found = {board.dataset: len(board.entries) for board in leaderboard.build_boards(runs)}
    assert found == {
        "digits (a c)": 2,
        "digits (b c)": 1,
        "digits (unknown)": 1,
        "digits (changed since training)": 1,
    }
    assert [board.dataset for board in leaderboard.build_boards(runs[:2])] == ["digits"]


def test_runs_are_ranked_and_the_best_of_each_column_is_marked_by_its_direction(tmp_path):
    runs = [
        write_run(
            tmp_path, str(code), [f"model.code={code}"], f"model: {{code: {code}}}", reconstruction=reconstruction(mse)
        )
        for code, mse in [(2, 0.05), (8, 0.01), (4, 0.02)]
    ]
    (table,) = only_board(*runs).tables
    assert names(table) == ["2 code=8", "3 code=4", "1 code=2"]
    assert [metric.heading for metric in table.columns] == ["mse ↓", "psnr ↑", "ssim ↑"]
    assert table.best == {"mse": {"2 code=8"}, "psnr": {"2 code=8"}, "ssim": {"2 code=8"}}


def test_a_setting_that_was_not_typed_is_read_from_the_config(tmp_path):
    rows = reconstruction(0.1)
    typed = write_run(tmp_path, "a", ["model.code=64"], "model: {code: 64}", reconstruction=rows)
    board = only_board(typed, write_run(tmp_path, "b", reconstruction=rows))
    assert board.varied == ["model.code"]
    assert list(board.names.values()) == ["1 code=64", "2 code=32"]


def test_settings_of_the_machine_and_names_of_folders_do_not_tell_runs_apart(tmp_path):
    runs = [
        write_run(
            tmp_path, name, [f"device={name}", "device.threads=1", f"name={name}"], reconstruction=reconstruction(0.1)
        )
        for name in ("cpu", "cuda")
    ]
    assert only_board(*runs).varied == []


def test_bounds_and_exact_likelihoods_are_ranked_together_and_estimates_apart(tmp_path):
    def nll(value, kind, **how):
        return {"likelihood": {"model": {"nll": value, "kind": kind, "binarisation": "dynamic", **how}}}

    runs = [
        write_run(tmp_path, "exact", choices={"model": "made"}, **nll(80.0, "exact")),
        write_run(tmp_path, "bound", choices={"model": "vae"}, **nll(90.0, "bound", samples=1000)),
        write_run(tmp_path, "better", choices={"model": "iwae"}, **nll(85.0, "bound", samples=1000)),
        write_run(tmp_path, "loose", choices={"model": "elbo"}, **nll(95.0, "bound", samples=1)),
        write_run(tmp_path, "guess", choices={"model": "rbm"}, **nll(70.0, "AIS estimate")),
    ]
    (table,) = only_board(*runs).tables
    assert table.is_mixed
    assert table.best["nll"] == {"1 made"}
    assert names(table) == ["1 made", "3 iwae", "2 vae", "4 elbo", "5 rbm"]
    assert {"kind", "binarisation", "samples"} <= {metric.name for metric in table.columns}


def test_below_a_table_the_best_run_is_compared_with_its_baseline(tmp_path, capsys):
    def evaluated(name, mse, text):
        verdicts = [{"table": "reconstruction", "outcome": "better", "text": text}]
        return write_run(tmp_path, name, [f"seed={name}"], verdicts=verdicts, reconstruction=reconstruction(mse))

    board = only_board(evaluated("1", 0.03, "better by 1 dB"), evaluated("2", 0.01, "better by 3 dB"))
    leaderboard.show([board])
    assert "2: better by 3 dB" in capsys.readouterr().out
    assert "2: better by 3 dB" in "\n".join(leaderboard.files.format_markdown(board))
    # Runs that were evaluated before there were verdicts.
    assert only_board(write_run(tmp_path, "old", reconstruction=reconstruction(0.1))).tables[0].baseline == ""


def test_denoising_is_ranked_within_one_noise(tmp_path):
    runs = [
        write_run(
            tmp_path,
            f"{noise}{mse}",
            [f"noise={noise}"],
            f"noise: {{_target_: x, p: {value}}}",
            choices={"noise": noise},
            denoising={"model": {"mse": mse}, "noisy input": {"mse": 0.2 if noise == "masking" else 0.4}},
        )
        for noise, value, mse in [("masking", 0.5, 0.01), ("gaussian", 1.0, 0.03), ("gaussian", 1.0, 0.02)]
    ]
    (table,) = only_board(*runs).tables
    assert table.best["mse"] == {"3 gaussian"}
    assert [metric.name for metric in table.columns] == ["noise", "mse"]
    assert names(table, "baseline") == ["noisy input, masking", "noisy input, gaussian"]


def test_each_baseline_stands_once_and_those_that_differ_have_a_row_each(tmp_path):
    mean = {"mse": 0.1, "mse_ci95": 0.002}
    runs = [
        write_run(tmp_path, "a", reconstruction=reconstruction(0.01, **{"PCA-32": {"mse": 0.02}, "mean image": mean})),
        write_run(
            tmp_path,
            "b",
            choices={"model": "vae"},
            reconstruction=reconstruction(0.03, **{"PCA-16": {"mse": 0.05}, "mean image": mean}),
        ),
    ]
    (table,) = only_board(*runs).tables
    assert names(table, "baseline") == ["PCA-32", "PCA-16", "mean image"]
    assert [line.kind for line in table.lines] == ["run"] * 2 + ["baseline"] * 3


def test_the_matrix_of_noises_is_train_noise_by_test_noise(tmp_path):
    runs = [
        write_run(
            tmp_path,
            noise,
            [f"noise={noise}"],
            f"noise: {{_target_: x, {key}: {value}, clip: false}}",
            choices={"noise": noise},
            noises={"model": {"none": 20.0, "gaussian_1": psnr}, "noisy input": {"gaussian_1": 0.0}},
        )
        for noise, key, value, psnr in [("masking", "p", 0.5, 12.0), ("gaussian", "std", 1.0, 16.0)]
    ]
    (table,) = only_board(*runs).tables
    assert names(table) == ["1 masking p=0.5", "2 gaussian std=1.0"]
    assert table.best["gaussian_1"] == {"2 gaussian std=1.0"}


def of_seed(folder, noise, seed, **tables):
    """Write a run of a noise and a seed."""
    choices = {"noise": noise}
    return write_run(
        folder, f"{noise}{seed}", [f"seed={seed}", f"noise={noise}"], f"seed: {seed}", choices=choices, **tables
    )


def test_seeds_have_means_and_standard_deviations(tmp_path):
    runs = [
        of_seed(tmp_path, noise, seed, clusters={"model": {"nmi": nmi, "nmi_ci95": 0.5}})
        for noise, seed, nmi in [("none", 0, 0.1), ("none", 1, 0.3), ("masking", 0, 0.9)]
    ]
    (table,) = only_board(*runs).tables
    (mean,) = [line for line in table.lines if line.kind == "mean"]
    assert mean.name == "mean of 2 seeds: no noise"
    assert mean.row == {"nmi": pytest.approx(0.2), "nmi_sd": pytest.approx(0.2 / math.sqrt(2))}
    assert format_cell(mean.row, "nmi") == ("0.20", "± 0.14")


def seeded(folder, **errors):
    return [
        of_seed(folder, noise, seed, reconstruction=reconstruction(mse))
        for noise, values in errors.items()
        for seed, mse in enumerate(values)
    ]


def test_with_seeds_settings_are_ranked_and_not_single_runs(tmp_path, capsys):
    runs = seeded(tmp_path, none=[0.02, 0.06, 0.04], masking=[0.03, 0.035, 0.034], gaussian=[0.9, 0.91, 0.92])
    (table,) = only_board(*runs).tables
    kinds = [line.kind for line in table.lines]
    assert kinds == ["mean"] * 3 + ["run"] * 9
    # The best single run is of other settings than the best mean.
    assert table.lines[3].name == "1 no noise seed=0"
    assert table.best["mse"] == {"mean of 3 seeds: masking"}
    assert not any(table.is_best(line, "mse") for line in table.lines[3:])
    # Means .033 and .04 with standard errors .0015 and .0115: t = .6 at about 2 degrees of freedom.
    assert table.verdict.startswith("By mse, mean of 3 seeds: masking is not significantly better")
    assert table.verdict.endswith("than mean of 3 seeds: no noise (p = 0.61).")
    leaderboard.show(leaderboard.build_boards(runs))
    assert "not significantly better" in capsys.readouterr().out
    leaderboard.write(tmp_path, leaderboard.build_boards(runs))
    assert "not significantly better" in (tmp_path / "leaderboard.md").read_text()


def test_what_seeds_can_tell_and_what_they_cannot(tmp_path):
    (table,) = only_board(*seeded(tmp_path / "sure", none=[0.1, 0.11, 0.12], masking=[0.3, 0.31, 0.32])).tables
    assert "significantly better than the others" in table.verdict and "not" not in table.verdict
    (table,) = only_board(*seeded(tmp_path / "equal", none=[0.1, 0.1], masking=[0.3, 0.3])).tables
    assert table.verdict.endswith("than mean of 2 seeds: masking.")
    (table,) = only_board(*seeded(tmp_path / "alone", none=[0.1, 0.2])).tables
    assert table.verdict == ""


def test_data_sets_have_boards_of_their_own(tmp_path):
    runs = [
        write_run(tmp_path, name, choices={"dataset": name}, reconstruction=reconstruction(mse))
        for name, mse in [("digits", 0.1), ("mnist", 0.2)]
    ]
    assert [board.dataset for board in leaderboard.build_boards(runs)] == ["digits", "mnist"]


def test_other_rows_of_the_model_are_named_after_it(tmp_path):
    rows = {"model, error": {"auroc_mnist": 0.8}, "model, likelihood": {"auroc_mnist": 0.9}, "chance": {}}
    (table,) = only_board(write_run(tmp_path, "a", anomalies=rows)).tables
    assert names(table) == ["1, likelihood", "1, error"]


def write_sweep(folder, *jobs):
    """Write evaluated jobs of a sweep, folders named as a sweep names them; returns their paths."""
    folder.mkdir()
    (folder / "sweep.json").touch()
    return [
        write_run(
            folder, f"{job}-seed_{job}", [f"seed={job}"], f"seed: {job}", reconstruction=reconstruction(0.1 / (1 + job))
        )
        for job in jobs
    ]


def test_jobs_have_the_numbers_of_their_folders_in_every_table(tmp_path, capsys):
    jobs = write_sweep(tmp_path / "sweep", 0, 2, 11)
    board = only_board(*jobs)
    assert names(board.tables[0]) == ["11 seed=11", "2 seed=2", "0 seed=0"]
    table, markdown = leaderboard.write(tmp_path, [board])
    with table.open() as file:
        assert [row["runs"] for row in csv.DictReader(file)] == ["0", "2", "11"]
    leaderboard.show([board])
    for text in (capsys.readouterr().out, markdown.read_text().replace("|", " ")):
        assert re.search(r"^ *job  +seed", text, re.MULTILINE)
        for number in ("0", "2", "11"):
            assert re.search(
                rf"^ *{number}  .*{number}-seed_{number}|^ *{number}  .*\n.*{number}-seed_", text, re.MULTILINE
            )
    assert format_labels(board.entries[:1]) == "job 0" and format_labels(board.entries) == "jobs 0, 2, 11"


def test_runs_of_several_places_are_called_by_letters(tmp_path):
    first, second = write_sweep(tmp_path / "a", 0, 1), write_sweep(tmp_path / "b", 0)
    alone = write_run(tmp_path, "0-alone", reconstruction=reconstruction(0.1))
    assert make_labels([*first, alone, *second]) == ["A0", "A1", "B", "C0"]
    assert make_labels([alone, tmp_path / "1-x"]) == ["1", "2"]
    assert make_labels([]) == []
    assert format_labels(only_board(*first, alone).entries) == "runs A0, A1, B"
    (copy := tmp_path / "a" / "0-copy").mkdir()
    assert make_labels([*first, copy]) == ["1", "2", "3"]
    found = [index_to_letters(index) for index in (0, 25, 26, 51, 52, 701, 702)]
    assert found == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_a_run_without_an_evaluation_is_named(tmp_path):
    run = write_run(tmp_path, "a", reconstruction=reconstruction(0.1))
    with pytest.raises(ConfigError, match="a has no evaluation on split=valid"):
        leaderboard.build_boards([run], "valid")


def test_the_terminal_gets_tables_of_100_columns(tmp_path, capsys):
    noises = {"model": {f"a_rather_long_noise_{i}": 10.0 + i for i in range(12)}}
    runs = [
        write_run(tmp_path, str(seed), [f"seed={seed}"], f"seed: {seed}", noises=noises, titles={"noises": "noises"})
        for seed in range(3)
    ]
    leaderboard.show(leaderboard.build_boards(runs))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100 or max(map(len, map(str, runs))) > 90
    assert all(f"a_rather_long_noise_{i} ↑" in out for i in range(12))
    assert "noises, continued" in out
    assert "mean of 3 seeds" in out


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_names_and_numbers_stay_whole_at_every_width(width, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    others = {"held-out images, by the judge": {"mse": 0.5, "mse_ci95": 0.01}}
    runs = [
        write_run(
            tmp_path,
            f"run{i}",
            [f"model.a_rather_long_key_of_the_model={i}"],
            reconstruction=reconstruction(0.0123456 * (i + 1), **others),
        )
        for i in range(3)
    ]
    leaderboard.show(leaderboard.build_boards(runs))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for whole in ("0.01235 ± 0.00025", "0.02469 ± 0.00049", "0.500 ± 0.010", "mse ↓", "psnr ↑", "ssim ↑", "19.08"):
        assert whole in text
    names = ["1 a_rather_long_key_of_the_model=0", "held-out images, by the judge"]
    blocks = text.count("reconstruction")
    if len(names[0]) <= width // 2:
        assert all(sum(line.startswith(name) for line in lines) == blocks for name in names)


def test_the_files_hold_everything(tmp_path):
    runs = [
        write_run(
            tmp_path,
            name,
            [f"tags.why={name}"],
            f"tags: {{why: {name}}}",
            reconstruction=reconstruction(mse, **{"mean image": {"mse": 0.5}}),
        )
        for name, mse in [("<b>x|y", 1 / 3), ("plain", 1 / 7)]
    ]
    table, markdown = leaderboard.write(tmp_path / "out", leaderboard.build_boards(runs))
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["model", "model", "mean image"]
    assert [row["runs"] for row in rows] == ["1", "2", "1 2"]
    assert [float(row["reconstruction.mse"]) for row in rows] == [1 / 3, 1 / 7, 0.5]
    assert rows[0]["tags.why"] == "<b>x|y"
    lines = markdown.read_text().splitlines()
    assert r"\<b\>x\|y" in markdown.read_text()
    assert "| 2 why=plain | **0.1429 ± 0.0029** | **8.451** | **0.8571** |" in lines
    assert "| *mean image* | 0.5000 |  |  |" in lines
    for start in [i for i, line in enumerate(lines) if line.startswith("| ---") or line.startswith("| --- |")]:
        bars = {line.replace(r"\|", "").count("|") for line in lines[start - 1 : start + 3]}
        assert len(bars) == 1


def test_numbers_are_written_with_the_decimals_of_their_spread():
    assert format_cell({"mse": 0.0039121, "mse_ci95": 0.0000412}, "mse") == ("0.003912", "± 0.000041")
    assert format_cell({"nll": 95.52, "nll_ci95": 12.3}, "nll") == ("96", "± 12")
    assert format_cell({"psnr": 16.0}, "psnr") == ("16", "")
    assert format_column([{"psnr": 16.0}, {"psnr": 15.55}], Metric("psnr")) == [("16.00", ""), ("15.55", "")]
    assert format_column([{"units": 32.0}, {}], Metric("units")) == [("32", ""), ("", "")]
    assert format_cell({"mse": math.nan}, "mse") == ("–", "")
    assert format_cell({"psnr": math.inf}, "psnr") == ("∞", "")
    assert format_cell({"kind": "bound"}, "kind") == ("bound", "")


def test_one_row_alone_is_not_the_best_and_nan_never_is():
    metrics = (Metric("mse", better="lower"), Metric("units"))
    assert best_rows({"a": {"mse": 1.0}}, "mse", metrics) == set()
    assert best_rows({"a": {"mse": 1.0}, "b": {"mse": math.nan}, "c": {"mse": 2.0}}, "mse", metrics) == {"a"}
    assert best_rows({"a": {"units": 1}, "b": {"units": 2}}, "units", metrics) == set()
