"""The table of published rows: what experiments promise, and what their runs gave."""

import json

import pytest

from published import results, table
from published.experiments import experiments, folder_of, is_full
from published.figures import draw_few_labels, few_labels

EXPERIMENT = """\
# aectl train experiment=one
# aectl eval run=latest split=train 'only=[likelihood]'
reference:
  nll: {table: likelihood, measure: nll, value: 86.76, within: 1, source: "Burda et al. 2016"}
  bound: {table: likelihood, measure: nll, at_most: 89.5}
"""


@pytest.fixture
def configs(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "one.yaml").write_text(EXPERIMENT)
    (folder / "one_short.yaml").write_text("defaults: [one, _self_]\nreference:\n  bound: {at_most: 95}\n")
    (folder / "toy.yaml").write_text("epochs: 3\n")
    return folder


def finished(folder, nll=87.0, split="train"):
    folder.mkdir(parents=True)
    record = {"status": "done", "device": {"name": "cpu"}, "git": {"commit": "0123456789", "dirty": True}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text("epoch,seconds\n1,90\n2,60\n")
    row = {
        "measure": "nll",
        "ours": nll,
        "ours_ci95": 0.5,
        "reference": 86.76,
        "difference": nll - 86.76,
        "bound": "± 1",
        "verdict": "PASS",
    }
    (folder / "metrics.json").write_text(json.dumps({split: {"published": {"nll": row}}}))


def rows_of(known, folder):
    return table.rows(known, results.gathered(known, folder))


def test_experiments_are_those_with_references_and_are_evaluated_as_their_header_says(configs):
    known = experiments(configs)
    assert list(known) == ["one", "one_short"]
    assert (known["one"].split, known["one_short"].split) == ("train", "test")
    assert (known["one"].evaluation, known["one_short"].evaluation) == (("split=train", "only=[likelihood]"), ())
    assert known["one_short"].references["bound"] == {"table": "likelihood", "measure": "nll", "at_most": 95}
    assert is_full("one", known)
    assert not is_full("one_short", known)


def test_what_was_run_has_its_numbers_and_the_rest_is_not_run(configs, tmp_path):
    finished(tmp_path / "runs/one")
    rows = list(rows_of(experiments(configs), tmp_path / "runs"))
    assert rows[0] == (
        "one", "nll", "87.00 ± 0.50", "86.76", "0.2400", "± 1", "**PASS**", "cpu, 2.5, `0123456+`",
    )  # fmt: skip
    assert [row[6] for row in rows[1:]] == ["not run"] * 3
    assert [row[1] for row in rows] == ["nll", "bound: nll"] * 2
    assert [row[3] for row in rows[1:]] == ["", "86.76", ""]


def test_the_table_takes_the_place_between_its_marks(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(page, iter([tuple("abcdefgh")]))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| a | b | c | d | e | f | g | h |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        table.write(page, iter([]))


@pytest.fixture
def swept(configs):
    (configs / "seeds.yaml").write_text(
        "# aectl eval run=latest split=train\ndefaults: [one]\nhydra: {sweeper: {params: {seed: '0, 1, 2'}}}\n"
    )
    (configs / "grid.yaml").write_text(
        "# aectl eval run=latest split=train\ndefaults: [one]\nhydra: {sweeper: {params: {a: '1,2', b: 'x,y'}}}\n"
    )
    return experiments(configs)


def test_what_is_swept_makes_runs_of_their_own(swept, tmp_path):
    assert swept["one"].variants() == [()]
    assert swept["seeds"].variants() == [("seed=0",), ("seed=1",), ("seed=2",)]
    assert swept["grid"].variants() == [("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=x"), ("a=2", "b=y")]
    assert folder_of("one", (), tmp_path) == tmp_path / "one"
    assert folder_of("grid", ("a=1", "b=x"), tmp_path) == tmp_path / "grid/a=1,b=x"


def test_seeds_have_a_mean_with_students_interval(swept, tmp_path):
    for seed, nll in enumerate((87.0, 87.2, 87.4)):
        finished(tmp_path / f"runs/seeds/seed={seed}", nll)
    rows = [row for row in rows_of(swept, tmp_path / "runs") if row[0].startswith("seeds")]
    assert [row[0] for row in rows] == [
        "seeds seed=0", "seeds seed=1", "seeds seed=2", "seeds, mean of 3 seeds", "seeds",
    ]  # fmt: skip
    # t for two degrees of freedom is 4.303, the standard error .2 / √3.
    assert rows[3][1:] == ("nll", "87.20 ± 0.50", "86.76", "0.4400", "", "", "")
    assert rows[4][6] == "not run"


def test_a_grid_says_which_of_its_runs_are_missing(swept, tmp_path):
    finished(tmp_path / "runs/grid/a=1,b=y")
    rows = [row for row in rows_of(swept, tmp_path / "runs") if row[0].startswith("grid") and row[1] == "nll"]
    assert [(row[0], row[6]) for row in rows] == [
        ("grid a=1 b=x", "not run"),
        ("grid a=1 b=y", "**PASS**"),
        ("grid a=2 b=x", "not run"),
        ("grid a=2 b=y", "not run"),
    ]


def test_seeds_of_the_same_settings_have_their_mean(configs, tmp_path):
    (configs / "both.yaml").write_text("defaults: [one]\nhydra: {sweeper: {params: {a: '1,2', seed: '0,1'}}}\n")
    for variant, nll in {"a=1,seed=0": 1.0, "a=1,seed=1": 3.0, "a=2,seed=0": 5.0}.items():
        finished(tmp_path / "runs/both" / variant, nll, split="test")
    rows = [row for row in rows_of(experiments(configs), tmp_path / "runs") if row[0].startswith("both a=")]
    # t for one degree of freedom is 12.706, the standard error 1.
    assert [row[:3] for row in rows if "mean" in row[0]] == [("both a=1, mean of 2 seeds", "nll", "2 ± 13")]


def test_results_outlive_the_folders_of_their_runs(configs, tmp_path):
    known, kept = experiments(configs), tmp_path / "published.json"
    finished(tmp_path / "runs/one")
    before = results.gathered(known, tmp_path / "runs")
    results.write(kept, before)
    assert results.read(kept) == before and before["one"]["minutes"] == 2.5
    assert list(table.rows(known, results.read(kept))) == list(rows_of(known, tmp_path / "runs"))
    assert results.read(tmp_path / "none.json") == results.gathered(known, tmp_path / "elsewhere") == {}


def test_the_curve_over_labels_is_that_of_the_results(tmp_path):
    def run(error, baseline):
        return {"numbers": {"error": {"ours": error, "reference": baseline}}}

    found = {
        "vincent_labels_100 model.pretrain_epochs=0 seed=0": run(27.0, 32.0),
        "vincent_labels_100 model.pretrain_epochs=8 seed=0": run(20.0, 32.0),
        "vincent_labels_100 model.pretrain_epochs=8 seed=1": run(18.0, 32.0),
        "vincent_labels_10k model.pretrain_epochs=8 seed=0": run(4.0, 11.0),
    }
    assert few_labels(found) == {
        "pretrained on all images": {100: [20.0, 18.0], 10_000: [4.0]},
        "not pretrained": {100: [27.0]},
        "logistic regression": {100: [32.0] * 3, 10_000: [11.0]},
    }
    draw_few_labels(found, tmp_path / "curve.png")
    draw_few_labels({}, tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
