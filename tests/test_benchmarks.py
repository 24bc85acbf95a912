"""What `make bench` counts and writes; what it measures is for a quiet machine."""

import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks.agreement import apart
from tests.benchmarks.bound import products


def test_the_products_of_a_step_are_those_of_backpropagation():
    found = products(((784, 400), (400, 40)), batch=128)
    assert found == [
        (128, 784, 400),
        (400, 128, 784),
        (128, 400, 40),
        (40, 128, 400),
        (128, 40, 400),
    ]
    assert sum(m * k * n for m, k, n in found) == 128 * (2 * 784 * 400 + 3 * 400 * 40)


def turns(*losses):
    return [{"seconds": [9.0, 2.0, 2.2], "loss": loss, "startup": 4.0, "memory": 500.0} for loss in losses]


def test_a_table_compares_medians_with_aectl_and_with_the_bound():
    ours = bench.summary(turns(109.0, 110.0, 111.0))
    assert (ours["seconds"], ours["least"], ours["most"]) == (2.1, 2.0, 2.2)
    peer = {**ours, "seconds": 6.3, "least": 6.0, "most": 7.0}
    found = {"vae": {"bound": 1.05, "contenders": {"aectl": ours, "tutorial": peer}}}
    *_, first, second, said = bench.page(found)
    assert first == "| aectl | 2.10 (2.00 … 2.20) | 28,571 | 1.0× | 50% | 110.00 ± 1.00 | 4.0 | 500 |"
    assert second == "| tutorial loop | 6.30 (6.00 … 7.00) | 9,524 | 3.0× | 17% | 110.00 ± 1.00 | 4.0 | 500 |"
    assert said == "\nThe losses agree within what other seeds make of them."


def test_losses_that_seeds_do_not_explain_are_told():
    # Student's t of 4 degrees of freedom is 4.604 at 99 %; s = 1, so that means of three may lie 3.76 apart.
    for beyond, said in ((3.7, []), (3.8, ["The loss of tutorial loop is +3.80 beside aectl's"])):
        losses = {"aectl": (9.0, 10.0, 11.0), "tutorial": (9.0 + beyond, 10.0 + beyond, 11.0 + beyond)}
        one = {"contenders": {name: bench.summary(turns(*found)) for name, found in losses.items()}}
        assert [line.split(",")[0] for line in bench.unequal(one)] == said


def test_the_spread_of_all_seeds_counts_and_the_first_is_who_is_compared_with():
    losses = {"one": [0.0, 2.0], "two": [5.0, 5.0, 5.0], "three": [0.5, 1.5]}
    (name, difference, reach), *others = apart(losses, level=0.9)
    # s² = (2 + 0 + 0.5) / (1 + 2 + 1), t of 4 degrees of freedom at 90 % is 2.132.
    assert (name, difference, others) == ("two", 4.0, [])
    assert reach == pytest.approx(2.132 * (0.625 * (1 / 2 + 1 / 3)) ** 0.5, rel=1e-3)
