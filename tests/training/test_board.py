"""What TensorBoard finds in a run folder, read back with its own reader."""

from functools import partial

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from aectl.figures.live import pictures
from aectl.models.autoencoder import Autoencoder
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.training import checkpoint
from aectl.training.board import TensorBoard

SHAPE = (1, 8, 8)
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])


@pytest.fixture
def board(tmp_path, make_trainer):
    def make(folder="run", model=None, **settings):
        torch.manual_seed(0)
        model = model or Autoencoder(SHAPE, 4, encoder, decoder)
        trainer = make_trainer(model, f"{folder}/checkpoints", **settings)
        hparams = {"model": "undercomplete", "model.code": 4, "optimizer.lr": 1e-3, "clip": False}
        draw = lambda trained: pictures(trained, trainer.valid_source)  # noqa: E731
        trainer.observers = [TensorBoard(tmp_path / folder, hparams, draw)]
        return trainer

    return make


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


def steps(events, tag):
    return [event.step for event in events.Scalars(tag)]


def session(events):
    """Return whether the HParams page knows the run, and the status with which it ended (0 for none)."""
    found = events.SummaryMetadata
    start = end = None
    for tag in events.summary_metadata:
        content = plugin_data_pb2.HParamsPluginData.FromString(found(tag).plugin_data.content)
        start = content.session_start_info if content.HasField("session_start_info") else start
        end = content.session_end_info.status if content.HasField("session_end_info") else end
    return start, end


def test_a_run_leaves_curves_pictures_codes_and_settings(board, tmp_path):
    board(epochs=3).fit()
    events = read(tmp_path / "run")
    for tag in ("train/loss", "val/loss", "val/mse", "train/gradient_norm", "lr", "time/seconds"):
        assert steps(events, tag) == [1, 2, 3]
    assert {"reconstruction", "filters"} <= set(events.Tags()["images"])
    assert [e.step for e in events.Images("reconstruction")] == [1, 2, 3]
    assert [e.step for e in events.Histograms("codes")] == [1, 2, 3]
    start, end = session(events)
    assert start.hparams["model"].string_value == "undercomplete"
    assert start.hparams["model.code"].number_value == 4
    assert end == 1  # SUCCESS
    assert (tmp_path / "run/projector_config.pbtxt").is_file()
    assert list((tmp_path / "run").glob("*/codes/metadata.tsv"))
    assert list((tmp_path / "run").glob("*/codes/sprite.png"))
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_the_values_are_the_trainers(board, tmp_path):
    trainer = board(epochs=2)
    trainer.fit()
    last = read(tmp_path / "run").Scalars("val/loss")[-1].value
    assert last == pytest.approx(trainer.metrics["val/loss"], rel=1e-6)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_resume_has_neither_gap_nor_repeat(board, tmp_path, lost):
    """`lost`: epochs whose events were written but whose checkpoint was not, as after a crash between the two."""
    first = board(epochs=2)
    first.fit()
    state = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    ahead = board(epochs=2 + lost)
    ahead.restore(state)
    if lost:
        ahead.fit()
    again = board(epochs=4)
    again.restore(state)
    again.fit()
    events = read(tmp_path / "run")
    assert steps(events, "val/loss") == [1, 2, 3, 4]
    assert [e.step for e in events.Images("reconstruction")] == [1, 2, 3, 4]


def test_a_run_that_did_not_end_has_no_status(board, tmp_path):
    trainer = board(epochs=3)
    count = iter(range(100))
    assert trainer.fit(lambda: "told" if next(count) >= 4 else None) == "told"
    start, end = session(read(tmp_path / "run"))
    assert start is not None
    assert end is None
    assert not (tmp_path / "run/projector_config.pbtxt").exists()


def test_the_board_changes_nothing_in_the_run(board, make_trainer):
    watched = board(epochs=2, model=GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder))
    start = {key: value.clone() for key, value in watched.model.state_dict().items()}
    plain_model = GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder)
    plain_model.load_state_dict(start)
    plain = make_trainer(plain_model, "plain", epochs=2)
    watched.fit()
    plain.fit()
    weights = plain.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in watched.model.state_dict().items())
