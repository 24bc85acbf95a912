"""Verdicts: the fair competitor, the interval, the sentence."""

import json
import math

import pytest

from aectl.evaluation.reconstruction import FIDELITY
from aectl.evaluation.registry import EVALUATIONS, HEADLINES
from aectl.evaluation.verdict import MOST, verdicts
from aectl.runs.metrics_json import best_rows, copies_note, find_damage, pca_legend


def psnr(value, ci95=0.0):
    mse = 10 ** (-value / 10)
    return {"mse": mse, "mse_ci95": ci95 * mse * math.log(10) / 10, "psnr": value}


COPY = {"mse": 4.6e-31, "psnr": 303.4}
MIX = {"PCA-Gaussian": {"frechet": 40.0}, "GMM-50": {"frechet": 35.1}, "real training images": {"frechet": 4.1}}
DETECTORS = {"PCA-64": {"auroc_fashion_mnist": 0.981}, "mean intensity": {"auroc_fashion_mnist": 0.7}}
BERNOULLI = {"independent Bernoulli": {"nll": 206.8, "nll_ci95": 1.0}}
PROBES = {"PCA-32": {"linear": 88.4, "linear_ci95": 0.6}, "raw pixels": {"linear": 92.0, "linear_ci95": 0.5}}

SENTENCES = {
    "denoising 16.3 dB, best affine denoiser 14.8: better by 1.5 dB": {
        "denoising": {"model": psnr(16.31, 0.04), "best affine": psnr(14.79, 0.04), "noisy input": psnr(6.0)}
    },
    "reconstruction 20.0 dB, PCA-32 25.8: worse by 5.8 dB": {
        "reconstruction": {"model": psnr(19.96), "PCA-32": psnr(25.77), "mean image": psnr(11.0)}
    },
    "reconstruction 20.1 dB, PCA-32 20.0: no clear difference (0.1 ± 0.5 dB)": {
        "reconstruction": {"model": psnr(20.1, 0.4), "PCA-32": psnr(20.0, 0.3), "mean image": psnr(11.0)}
    },
    "reconstruction 20.0 dB, mean image 20.0: no clear difference (0.0 ± 0.0 dB)": {
        "reconstruction": {"model": psnr(20.0), "mean image": psnr(20.0)}
    },
    "reconstruction 30.0 dB, PCA-240 28.0: better by 2.0 dB": {
        "reconstruction": {"model": psnr(30.0), "PCA-784": COPY, "PCA-240": psnr(28.0), "mean image": psnr(11.0)}
    },
    "reconstruction 16.1 dB, mean image 11.7: better by 4.4 dB "
    "(PCA-709 nearly copies the image: it keeps over 99.9 % of the variance)": {
        "reconstruction": {
            "model": psnr(16.1),
            "PCA-709": psnr(86.46),
            "PCA-553": psnr(47.0),
            "mean image": psnr(11.7),
        }
    },
    "reconstruction 16.1 dB, PCA-39 21.0: worse by 4.9 dB": {
        "reconstruction": {"model": psnr(16.1), "PCA-39": psnr(21.0), "PCA-30": psnr(20.0), "mean image": psnr(11.7)}
    },
    "reconstruction 30.0 dB, mean image 11.0: better by 19.0 dB "
    "(PCA-784 nearly copies the image: it keeps over 99.9 % of the variance)": {
        "reconstruction": {"model": psnr(30.0), "PCA-784": COPY, "mean image": psnr(11.0)}
    },
    "classification 98.6 %, logistic regression 92.6: better by 6.0 points": {
        "classification": {"model": {"accuracy": 98.6}, "logistic regression": {"accuracy": 92.6}}
    },
    "linear probe 94.1 %, raw pixels 92.0: better by 2.1 points": {
        "probes": {"model": {"linear": 94.1, "linear_ci95": 0.6}, **PROBES}
    },
    "linear probe 98.1 %, PCA-60 96.1: no clear difference (2.0 ± 2.5 points)": {
        "probes": {
            "model": {"linear": 98.06, "linear_ci95": 1.5},
            "PCA-60": {"linear": 96.14, "linear_ci95": 2.0},
            "raw pixels": {"linear": 96.0},
        }
    },
    "samples: energy distance 0.11, GMM-6 0.02: worse by 0.09": {
        "samples": {
            "model": {"energy": 0.1149, "energy_ci95": 0.011},
            "GMM-6": {"energy": 0.0151, "energy_ci95": 0.01},
        }
    },
    "reconstruction 15.0 dB, mean image 11.3: better by 3.7 dB "
    "(PCA-50 nearly copies the image: it keeps over 99.9 % of the variance)": {
        "reconstruction": {"model": psnr(15.0), "PCA-50": psnr(45.9), "mean image": psnr(11.3)}
    },
    "reconstruction 22.0 dB, PCA-32 25.8: worse by 3.8 dB": {
        "reconstruction": {"model": psnr(22.0), "PCA-32": psnr(25.8), "mean image": psnr(11.3)}
    },
    "NLL 104.2 nats (bound), independent Bernoulli 206.8: better by 102.6 nats": {
        "likelihood": {"model": {"nll": 104.2, "kind": "bound"}, "model, ELBO": {"nll": 108.0}, **BERNOULLI}
    },
    "NLL 104.2 nats (cross-entropy of grey pixels), independent Bernoulli 206.8: better by 102.6 nats": {
        "likelihood": {"model": {"nll": 104.2, "kind": "no likelihood"}, **BERNOULLI}
    },
    "NLL 500.0 nats, probabilistic PCA-2 450.0: worse by 50.0 nats": {
        "likelihood": {
            "model": {"nll": 500.0, "kind": "exact"},
            "independent normal": {"nll": 600.0},
            "probabilistic PCA-2": {"nll": 450.0},
        }
    },
    "samples: Fréchet distance 12.3, GMM-50 35.1: better by 22.8 (training images 4.1)": {
        "samples": {"model": {"energy": 0.1}, "PCA-Gaussian": {"energy": 0.2}},
        "distances": {"model": {"frechet": 12.3, "frechet_ci95": 0.4}, **MIX},
    },
    "samples: energy distance 0.046, PCA-Gaussian 0.012: worse by 0.034 (training images 0.000)": {
        "samples": {
            "model": {"energy": 0.0456},
            "PCA-Gaussian": {"energy": 0.0123},
            "real training images": {"energy": -0.0002},
        }
    },
    "detection of fashion_mnist: AUROC 0.994 (likelihood), PCA-64 0.981: better by 0.013": {
        "anomalies": {
            "model, error": {"auroc_fashion_mnist": 0.9},
            "model, likelihood": {"auroc_fashion_mnist": 0.994},
            **DETECTORS,
            "chance": {"auroc_fashion_mnist": 0.5},
        }
    },
}


@pytest.mark.parametrize("text", SENTENCES)
def test_a_verdict_names_the_fair_baseline_the_difference_and_its_unit(text):
    (found,) = verdicts(SENTENCES[text], HEADLINES)
    assert found["text"] == text
    assert found["outcome"] == next(
        o for w, o in (("better", "better"), ("worse", "worse"), ("", "unclear")) if w in text
    )
    assert found["baseline"] in SENTENCES[text][found["table"]]
    assert found["difference"] == found["ours"] - found["theirs"]
    assert find_damage({"verdicts": json.loads(json.dumps([found]))}) == ""


@pytest.mark.parametrize(
    ("ours", "ci95", "outcome"), [(12.0, 1.0, "better"), (12.0, 1.6, "unclear"), (8.0, 1.0, "worse")]
)
def test_a_difference_counts_if_its_interval_does_not_cover_zero(ours, ci95, outcome):
    # The interval of the difference: √(ci95² + 1.2²), 1.56 and 2 where ours has 1.0 and 1.6.
    accuracy = {"accuracy": 10.0, "accuracy_ci95": 1.2}
    rows = {"model": {"accuracy": ours, "accuracy_ci95": ci95}, "logistic regression": accuracy}
    (found,) = verdicts({"classification": rows}, HEADLINES)
    assert found["outcome"] == outcome
    assert found["ci95"] == pytest.approx(math.hypot(ci95, 1.2))


@pytest.mark.parametrize(
    ("value", "outcome"), [(math.inf, "better"), (math.nan, "worse"), (-math.inf, "worse"), (None, None), ("x", None)]
)
def test_numbers_without_end_and_none_at_all(value, outcome):
    rows = {"model": {"mse": 0.1, "psnr": value}, "PCA-2": psnr(20.0)}
    found = verdicts({"reconstruction": rows}, HEADLINES)
    assert [one["outcome"] for one in found] == ([outcome] if outcome else [])
    assert all("nan by" not in one["text"] for one in found)


def test_without_a_baseline_or_a_model_there_is_no_verdict():
    assert verdicts({}, HEADLINES) == []
    assert verdicts({"reconstruction": {"PCA-2": psnr(20.0)}, "denoising": {"model": psnr(1.0)}}, HEADLINES) == []
    assert verdicts({"codes": {"model": {"units": 3}, "PCA-3": {"units": 3}}}, HEADLINES) == []


def test_the_most_telling_come_first_and_are_few():
    tables = {name: rows for case in reversed(SENTENCES.values()) for name, rows in case.items()}
    found = [one["table"] for one in verdicts(tables, HEADLINES)]
    assert found == ["classification", "denoising", "likelihood", "reconstruction"]
    assert len(found) == MOST


def test_every_headline_is_of_a_metric_with_a_better_direction():
    assert {one.name for one in EVALUATIONS if one.headline} == set(HEADLINES)
    for one in EVALUATIONS:
        assert one.headline is None or (one.headline.metric.better and one.headline.metric in one.metrics)


def test_what_copies_the_image_is_never_the_best():
    rows = {"model": psnr(30.0), "PCA-784": COPY, "PCA-240": psnr(28.0), "mean image": psnr(11.7)}
    for metric in ("mse", "psnr"):
        assert best_rows(rows, metric, FIDELITY) == {"model"}
        assert best_rows({**rows, "PCA-709": psnr(86.46), "PCA-553": psnr(47.0)}, metric, FIDELITY) == {"model"}
        assert best_rows({"model": psnr(20.0), "PCA-32": psnr(25.8)}, metric, FIDELITY) == {"PCA-32"}
    # A run of a leaderboard may come back whole, and is the best then.
    assert best_rows({"model": psnr(20.0), "PCA-" + "9" * 5000: psnr(30.0)}, "psnr", FIDELITY)
    assert best_rows({"1 code=8": psnr(30.0), "2 code=784": COPY}, "mse", FIDELITY) == {"2 code=784"}


WHOLE = {"table": "probes", "outcome": "better", "text": "x"}


@pytest.mark.parametrize("bad", [5, {}, "x", [5], [{}], [{**WHOLE, "text": 5}], [{**WHOLE, "ours": []}], [WHOLE, None]])
def test_verdicts_of_another_kind_are_find_damage(bad):
    assert find_damage({"verdicts": bad}) == "verdicts"
    assert find_damage({}) == find_damage({"verdicts": None}) == find_damage({"verdicts": [WHOLE]}) == ""


def test_a_pca_of_another_size_than_the_code_says_why():
    codes = {"codes": {"model": {"units": 784.0}, "PCA-627": {}}}
    pair = {"reconstruction": {"model": {}, "PCA-627": {}, "PCA-30": {}}}
    rank = "PCA-627: fewer components than the code has units (784): the rank of the training images"
    assert pca_legend(codes) == rank
    assert pca_legend(codes | pair) == f"{rank}; PCA-30: as many components as units are active on the average image"
    assert pca_legend({"codes": {"model": {"units": 32.0}, "PCA-32": {}}, "samples": {"PCA-Gaussian": {}}}) == ""
    assert "at most the rank" in pca_legend({"reconstruction": {"PCA-60": {}}})
    assert "pixels" in pca_legend({"codes": {"model": {"units": 32.0}}, "anomalies": {"PCA-64": {}}})


def test_rows_that_nearly_copy_are_named():
    rows = {"model": {"mse": 0.01}, "PCA-50": {"mse": 2e-5}, "PCA-32": {"mse": 3e-3}, "mean image": {"mse": 0.07}}
    assert copies_note(rows) == "PCA-50 nearly copies the image (over 99.9 % of the variance), not counted as best"
    assert copies_note({**rows, "PCA-60": {"mse": 0.0}}).startswith("PCA-50, PCA-60 nearly copy the image")
    assert copies_note({name: row for name, row in rows.items() if name != "PCA-50"}) == ""
