"""What `make bench` and `make growth` count and write; what they measure is for a quiet machine."""

from itertools import pairwise

import numpy as np
import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks import growth, growth_figure, some_steps, step
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


def law(sizes, time, memory):
    return {str(size): {"seconds": 2e-4 * size**time, "memory": 3.0 * size**memory} for size in sizes}


def test_an_exponent_is_that_of_the_span_alone():
    points = law((16, 32, 64, 128), -0.5, 1.5) | {"8": {"seconds": 9.0, "memory": 9.0}}
    assert growth.exponent(points, "seconds", (16, 128)) == pytest.approx(-0.5)
    assert growth.exponent(points, "memory", (16, 128)) == pytest.approx(1.5)
    assert growth.exponent(points, "memory", (8, 128)) != pytest.approx(1.5, abs=0.1)


def test_every_axis_is_measured_at_all_sizes_by_all_contenders_and_drawn(tmp_path):
    asked = []
    axis = growth.Axis(
        "so many", (10, 100), (10, 100), ("tutorial", "aectl"), lambda *of: asked.append(of) or {"memory": 1.0}
    )
    found = growth.measured(axis)
    assert asked == [("tutorial", 10), ("aectl", 10), ("tutorial", 100), ("aectl", 100)]
    assert {name: list(points) for name, points in found.items()} == {"tutorial": ["10", "100"], "aectl": ["10", "100"]}
    axes = {f"axis {number}": {"aectl": law((10, 100), 1, 1)} for number in range(4)}
    growth_figure.draw(axes, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_steps_are_timed_behind_those_to_warm_up(tmp_path, monkeypatch):
    monkeypatch.setattr(some_steps, "SECONDS", 0.0)
    np.save(tmp_path / "x.npy", np.zeros((2100, 4, 4), np.uint8))
    ends = some_steps.aectl(8, 16, str(tmp_path / "x.npy"))
    assert len(ends) == some_steps.WARM + some_steps.LEAST + 1
    assert all(after > before for before, after in pairwise(ends))
    assert not some_steps.enough(ends[:-1])


def test_a_part_within_another_counts_for_itself_alone(monkeypatch):
    now = iter((0.0, 1.0, 4.0, 9.0))
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(now))
    watch = step.Stopwatch()
    watch.timed("forward", watch.timed("random", lambda: None))()
    assert watch.spent == {"random": 3.0, "forward": 6.0}
