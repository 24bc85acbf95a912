"""What a checkpoint may hold: tensors whose numbers are all in the file."""

import pytest
import torch

from aectl.training.checkpoint import CheckpointError, load, save
from aectl.training.checkpoint_schema import SchemaError, check_tensors

TENSORS = {
    "expanded": lambda: torch.zeros(1).expand(4, 3),
    "expanded in one dimension": lambda: torch.zeros(4, 1).expand(4, 3),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(4, 3, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(4, 3), 0.1, 0, torch.qint8),
    "complex": lambda: torch.zeros(4, 3, dtype=torch.complex64),
}


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning", "ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_not_plain_is_refused_wherever_it_is(name):
    tensor = TENSORS[name]()
    for state in ({"w": tensor}, {"a": [{"b": (1, tensor)}]}, [torch.zeros(2), tensor]):
        with pytest.raises(SchemaError):
            check_tensors(state)


def test_plain_tensors_views_and_shared_ones_are_accepted():
    whole = torch.zeros(4, 3)
    check_tensors({"w": whole, "view": whole[1], "turned": whole.T, "again": [whole, {"n": 1, "text": "x"}]})


def test_a_checkpoint_with_an_expanded_weight_of_the_right_shape_is_refused(tmp_path):
    path = tmp_path / "best.pt"
    torch.save({"model": {"w": torch.zeros(1).expand(64, 16)}, "epoch": 1}, path)
    with pytest.raises(CheckpointError, match="a tensor declares more numbers than the file has"):
        load(path, "cpu")
    save(path, {"model": {"w": torch.zeros(64, 16)}, "epoch": 1})
    assert load(path, "cpu")["model"]["w"].shape == (64, 16)
