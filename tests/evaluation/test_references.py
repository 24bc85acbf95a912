"""Published numbers beside measured ones."""

import pytest

from aectl.evaluation.references import check, compare

TABLES = {"likelihood": {"model": {"nll": 87.0, "nll_ci95": 0.4}, "model, ELBO": {"nll": 90.0}}}


def one(**more):
    return {"table": "likelihood", "measure": "nll", **more}


@pytest.mark.parametrize(
    ("reference", "verdict", "bound"),
    [
        (one(value=86.76, within=1), "PASS", "± 1"),
        (one(value=86.76, within=0.2), "FAIL", "± 0.2"),
        (one(value=88.1, within=1), "FAIL", "± 1"),
        (one(at_most=87.0), "PASS", "≤ 87"),
        (one(at_most=86.9), "FAIL", "≤ 86.9"),
        (one(at_least=87.1), "FAIL", "≥ 87.1"),
        (one(at_least=0), "PASS", "≥ 0"),
        (one(row="model, ELBO", at_most=89), "FAIL", "≤ 89"),
        (one(value=86.76), "no bound", "none"),
        (one(), "no reference", "none"),
        (one(row="nobody", at_most=1), "not measured", "≤ 1"),
        (one(at_most="model, ELBO"), "PASS", "≤ 90"),
        (one(at_least="model, ELBO"), "FAIL", "≥ 90"),
        (one(value="model, ELBO", within=2), "FAIL", "± 2"),
        (one(at_most="nobody"), "not measured", "≤ nobody"),
    ],
)
def test_the_verdict_is_by_the_bound(reference, verdict, bound):
    found = compare(TABLES, {"row": reference})["row"]
    assert (found["verdict"], found["bound"]) == (verdict, bound)


def test_ours_comes_with_its_interval_and_the_difference():
    found = compare(TABLES, {"nll": one(value=86.5, within=1, source="Burda et al. 2016")})["nll"]
    assert found == {
        "measure": "nll",
        "ours": 87.0,
        "ours_ci95": 0.4,
        "reference": 86.5,
        "difference": 0.5,
        "bound": "± 1",
        "verdict": "PASS",
        "source": "Burda et al. 2016",
    }


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({"measure": "nll"}, "must have a table and a measure"),
        (3, "must have a table and a measure"),
        (one(within=1), "nothing to be within"),
        (one(value=1, within=1, at_most=3), "must have one of"),
        (one(valeu=1), "no key 'valeu'"),
        (one(at_most=[1]), "must be a number or the name of a row"),
        (one(value=1, within="model"), "must be a number, not model"),
    ],
)
def test_references_that_cannot_be_read_are_refused(reference, words):
    with pytest.raises(ValueError, match=words):
        check({"row": reference})


def test_a_baseline_of_the_same_table_may_be_the_reference():
    found = compare(TABLES, {"elbo": one(value="model, ELBO", at_most="model, ELBO")})["elbo"]
    assert (found["reference"], found["difference"], found["bound"]) == (90.0, -3.0, "≤ 90")
