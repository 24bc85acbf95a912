"""What `make bench` counts and writes; what it measures is for a quiet machine."""

from tests.benchmarks import __main__ as bench
from tests.benchmarks import precision, step
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


def test_a_table_compares_medians_with_aectl_and_with_the_bound():
    turns = [{"seconds": [9.0, 2.0, 2.2], "loss": 110.0, "startup": 4.0, "memory": 500.0} for _ in range(3)]
    ours = bench.summary(turns)
    assert (ours["seconds"], ours["least"], ours["most"]) == (2.1, 2.0, 2.2)
    peer = {**ours, "seconds": 6.3, "least": 6.0, "most": 7.0}
    found = {"vae": {"bound": 1.05, "contenders": {"aectl": ours, "tutorial": peer}}}
    lines = list(bench.page(found))
    assert lines[-2] == "| aectl | 2.10 (2.00 … 2.20) | 28,571 | 1.0× | 50% | 110.00 | 4.0 | 500 |"
    assert lines[-1] == "| tutorial loop | 6.30 (6.00 … 7.00) | 9,524 | 3.0× | 17% | 110.00 | 4.0 | 500 |"


def test_bf16_is_told_by_steps_and_by_test_losses_of_each_seed():
    times = {("vae", 2048, 128): {"fp32": 0.045, "bf16": 0.03}}
    runs = [
        {"fp32": {"loss": 100.0, "seconds": 20.0}, "bf16": {"loss": loss, "seconds": 12.0}} for loss in (99.0, 102.0)
    ]
    lines = list(precision.page(times, {("vae", seed): run for seed, run in enumerate(runs)}))
    assert "| `vae` | 2048 | 128 | 45.0 | 30.0 | 1.50× |" in lines
    assert lines[-1] == "| `vae` | 100.000 | 100.500 | +0.50% (-1.00%, +2.00%) | 20.0 and 12.0 |"


def test_a_part_within_another_counts_for_itself_alone(monkeypatch):
    now = iter((0.0, 1.0, 4.0, 9.0))
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(now))
    watch = step.Stopwatch()
    watch.timed("forward", watch.timed("random", lambda: None))()
    assert watch.spent == {"random": 3.0, "forward": 6.0}


def test_a_steps_parts_are_a_table_of_milliseconds_and_shares():
    found = dict.fromkeys(step.PARTS, 0.0) | {"products": 0.002, "rest": 0.001, "step": 0.003}
    lines = list(step.table(found))
    assert "| products of matrices | 2.00 | 67% |" in lines
    assert lines[-1] == "| the trainer's own Python, and the rest | 1.00 | 33% |"
