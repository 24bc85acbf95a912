"""What is kept is computed once, whatever happens to it or beside it."""

import json
import math
import threading
import time

import pytest
import torch

from aectl.evaluation.baseline_cache import VERSION, Cache, cache_folder, read_json


class Counted:
    """A computation that counts how often it was done."""

    def __init__(self, result):
        self.result, self.calls = result, 0

    def __call__(self):
        self.calls += 1
        return self.result


def test_results_are_kept_and_found_again(tmp_path):
    row = {"mse": 0.1, "kind": "exact", "worst": math.inf, "parts": [1, {"a": 2.5e-300}]}
    numbers, arrays = Counted(row), Counted({"m": torch.eye(3, dtype=torch.float64), "n": torch.tensor([True, False])})
    for cache in (Cache(tmp_path / "new"), Cache(tmp_path / "new")):
        assert cache.numbers("x", numbers) == row
        found = cache.arrays("x", arrays)
        assert found["m"].dtype == torch.float64
        assert torch.equal(found["m"], torch.eye(3, dtype=torch.float64))
        assert torch.equal(found["n"], torch.tensor([True, False]))
    assert (numbers.calls, arrays.calls) == (1, 1)
    assert Cache(tmp_path / "new").numbers("y", Counted(2)) == 2


def test_what_is_not_a_number_is_kept_as_such(tmp_path):
    Cache(tmp_path).numbers("x", lambda: {"mse": math.nan})
    assert math.isnan(Cache(tmp_path).numbers("x", lambda: pytest.fail("computed again"))["mse"])


def test_without_a_folder_nothing_is_kept():
    counted = Counted({"a": 1})
    assert Cache().numbers("x", counted) == Cache().numbers("x", counted) == {"a": 1}
    assert counted.calls == 2


def test_arrays_that_lie_oddly_in_memory_are_kept(tmp_path):
    whole = torch.arange(12.0).view(3, 4).requires_grad_()
    Cache(tmp_path).arrays("x", lambda: {"turned": whole.T, "part": whole[:, 1]})
    found = Cache(tmp_path).arrays("x", lambda: pytest.fail("computed again"))
    assert torch.equal(found["turned"], whole.T)
    assert found["part"].tolist() == [1, 5, 9]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", None])
def test_what_is_damaged_is_computed_anew(tmp_path, damage):
    cache, numbers, arrays = Cache(tmp_path), Counted({"a": 1}), Counted({"m": torch.ones(100)})
    for _ in range(2):
        cache.numbers("x", numbers)
        cache.arrays("x", arrays)
    for path in (tmp_path / "x.json", tmp_path / "x.safetensors"):
        # None: a write that broke off.
        path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    for _ in range(2):
        assert cache.numbers("x", numbers) == {"a": 1}
        assert torch.equal(cache.arrays("x", arrays)["m"], torch.ones(100))
    assert (numbers.calls, arrays.calls) == (2, 2)


def test_a_computation_that_fails_leaves_nothing_behind(tmp_path):
    def fail():
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        Cache(tmp_path).numbers("x", fail)
    assert not list(tmp_path.glob("*.json"))
    assert Cache(tmp_path).numbers("x", lambda: 1) == 1


def test_a_write_that_breaks_off_is_not_found(tmp_path):
    def half(content, path):
        path.write_text(json.dumps(content)[:5])
        raise OSError("no space left")

    cache = Cache(tmp_path)
    # It costs the next one the time to compute it again, and this one nothing.
    assert cache.load_or_compute("x.json", lambda: 123456789, read_json, half) == 123456789
    assert not (tmp_path / "x.json").exists()
    assert cache.numbers("x", lambda: 2) == 2
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.numbers("y", lambda: {"a": 1, "b": object()})
    assert not (tmp_path / "y.json").exists()


def test_those_who_ask_at_the_same_time_wait_for_one_computation(tmp_path):
    calls, found = [], []
    ready = threading.Barrier(6)

    def compute():
        calls.append(1)
        time.sleep(0.1)
        return {"m": torch.full((1000,), 7.0)}

    def ask():
        cache = Cache(tmp_path)
        ready.wait()
        found.append(cache.arrays("x", compute)["m"])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 6
    assert all(torch.equal(one, torch.full((1000,), 7.0)) for one in found)


def test_a_computation_may_ask_for_another_one(tmp_path):
    cache = Cache(tmp_path)
    assert cache.numbers("sum", lambda: 1 + cache.numbers("part", lambda: 2)) == 3


def test_the_folder_is_of_the_data_and_of_how_baselines_are_computed(monkeypatch):
    monkeypatch.setenv("AECTL_CACHE", "/somewhere")
    assert str(cache_folder("abc")) == f"/somewhere/baselines/abc-v{VERSION}"
    monkeypatch.delenv("AECTL_CACHE")
    assert cache_folder("abc").parts[-2:] == ("baselines", f"abc-v{VERSION}")
    assert cache_folder("abc").is_absolute()
