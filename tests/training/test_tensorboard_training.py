"""What TensorBoard finds in a run folder, read back with its own reader."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.nn import functional

from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Batch
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.tensorboard.images import draw_pictures
from aectl.tensorboard.training import TensorBoard, make_chart_layout
from aectl.training import checkpoint
from tests.hparams import hparams_page

SHAPE = (1, 8, 8)
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])


@pytest.fixture
def board(tmp_path, make_trainer):
    def make(folder="run", model=None, **settings):
        torch.manual_seed(0)
        model = model or Autoencoder(SHAPE, 4, encoder, decoder)
        trainer = make_trainer(model, f"{folder}/checkpoints", **settings)
        hparams = {"model": "undercomplete", "optimizer.lr": 1e-3, "clip": False, "seed": 0}
        hparams |= {
            "model._target_": "aectl.models.autoencoder.Autoencoder",
            "noise": "own",
            "noise._target_": "my.Own",
        }
        trainer.observers = [
            TensorBoard(tmp_path / folder, hparams, partial(draw_pictures, source=trainer.valid_source))
        ]
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
    assert start.hparams["Model"].string_value == "undercomplete"
    assert start.hparams["Model code"].number_value == 4
    # The class of an option says no more than its name.
    assert set(start.hparams) == {"Model", "Model code", "Seed", "optimizer.lr", "clip", "noise", "noise._target_"}
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


def test_a_run_that_fails_in_its_last_checkpoint_has_no_status(board, tmp_path, monkeypatch):
    trainer = board(epochs=2)
    written = checkpoint.save

    def fail(path, state, keep=None):
        if state["epoch"] == 2:
            # What this checkpoint would count is on disk before it is.
            assert steps(read(tmp_path / "run"), "val/loss") == [1, 2]
            raise OSError("disk full")
        written(path, state, keep)

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        trainer.fit()
    assert session(read(tmp_path / "run"))[1] is None
    assert not (tmp_path / "run/projector_config.pbtxt").exists()


def test_an_interrupted_run_that_is_resumed_ends_well(board, tmp_path):
    count = iter(range(100))
    board(epochs=2).fit(lambda: "told" if next(count) >= 1 else None)
    again = board(epochs=2)
    again.restore(checkpoint.load(tmp_path / "run/checkpoints/last.pt"))
    again.fit()
    events = read(tmp_path / "run")
    assert session(events)[1] == 1
    assert steps(events, "val/loss") == [1, 2]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 2


def test_a_run_that_stalls_has_ended(board, tmp_path):
    still = partial(torch.optim.SGD, lr=0.0)
    trainer = board(epochs=9, patience=1, optimizer=still)
    trainer.fit()
    assert trainer.epoch < 9
    assert session(read(tmp_path / "run"))[1] == 1


def test_without_held_out_images_training_images_are_shown(board, tmp_path):
    trainer = board(epochs=1, valid=0)
    trainer.observers[0].pictures = lambda model: draw_pictures(model, trainer.train_source)
    trainer.fit()
    assert len(next((tmp_path / "run").glob("*/codes/metadata.tsv")).read_text().splitlines()) == 96


def test_losses_share_a_chart_whatever_the_model_calls_them(board, tmp_path):
    board(epochs=1).fit()
    content = read(tmp_path / "run").Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    (category,) = layout_pb2.Layout.FromString(content).category
    found = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert found["loss"] == ["train/loss", "val/loss"]
    assert found["reconstruction"] == ["train/reconstruction$", "val/reconstruction$"]
    two = make_chart_layout({"train/loss_generator": 1.0, "train/loss_discriminator": 1.0, "lr": 1.0, "seconds": 1.0})
    assert two == {"loss": ["Multiline", found["loss"]]}


def test_the_hparams_page_has_the_settings_and_metrics_of_all_models(board, tmp_path):
    board("a", epochs=1).fit()
    other = board("b", epochs=1, model=GAN(SHAPE, 3, decoder, encoder))
    other.observers[0].hparams = {"model": "gan", "model.discriminator_steps": 1, "batch_size": 8, "seed": 1}
    other.fit()
    settings, metrics = hparams_page(tmp_path)
    assert set(settings) == {
        *("Model", "Model code", "Seed", "optimizer.lr", "clip", "noise", "noise._target_"),
        *("model.discriminator_steps", "batch_size"),
    }
    assert {"val/loss", "val/energy_distance"} <= set(metrics)


def test_the_hparams_page_has_model_code_seed_and_objective_first(board, tmp_path):
    many = {f"a_setting_{i}": i for i in range(6)}
    for number, model in enumerate((None, GAN(SHAPE, 3, decoder, encoder), Autoencoder(SHAPE, 2, encoder, decoder))):
        trainer = board(f"sweep/{number}", epochs=2, model=model)
        own = {name: value + number for name, value in many.items()}
        trainer.observers[0].hparams |= {**own, "model": f"model_{number}", "seed": number}
        trainer.fit()
    one, several = hparams_page(tmp_path / "sweep" / "0"), hparams_page(tmp_path)
    for settings, _ in (one, several):
        assert settings[:3] == ["Model", "Model code", "Seed"]
    assert one[1][0] == "Objective/val/loss"
    assert several[1][:2] == ["Objective/val/energy_distance", "Objective/val/loss"]
    events = read(tmp_path / "sweep" / "0")
    losses = [event.value for event in events.Scalars("val/loss")]
    assert [event.value for event in events.Scalars("Objective/val/loss")] == [losses[0], min(losses)]


def test_what_cannot_be_drawn_is_a_warning_and_ends_no_run(board, tmp_path, caplog, monkeypatch):
    trainer = board(epochs=3)
    trainer.observers[0].pictures = lambda model: torch.zeros(10**15)
    monkeypatch.setattr("aectl.tensorboard.training.encode_source", lambda *_: 1 / 0)
    trainer.fit()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(":")[0] for text in warnings] == [
        "TensorBoard shows no pictures of this model",
        "TensorBoard shows no codes of this model",
    ]
    events = read(tmp_path / "run")
    assert steps(events, "val/loss") == [1, 2, 3] and not events.Tags()["images"]
    assert session(events)[1] == 1


ODD_CODES = {
    "of no number": lambda h: h[:, :0],
    "whole numbers": lambda h: (h > 0).long(),
    "truth values": lambda h: h > 0,
    "complex": lambda h: torch.complex(h, h),
    "of few images": lambda h: h[:3],
    "of no image": lambda h: h[:0],
    "one number": lambda h: h.sum(),
    "NaN": lambda h: h * torch.nan,
    "infinite": lambda h: h / 0,
    "no tensor": lambda h: None,
    "sparse": lambda h: h.to_sparse(),
    "on no device": lambda h: h.to("meta"),
}
ODD_PICTURES = {
    "a row": torch.zeros(5),
    "many channels": torch.zeros(9, 4, 4),
    "no pixel": torch.zeros(1, 0, 0),
    "four dimensions": torch.zeros(2, 1, 4, 4),
    "complex": torch.zeros(1, 4, 4, dtype=torch.complex64),
    "no tensor": None,
    "NaN": torch.full((1, 4, 4), torch.nan),
    "on no device": torch.zeros(1, 4, 4, device="meta"),
}


class OddCodes(Autoencoder):
    """Autoencoder whose `encode` returns something else than codes; it trains as usual."""

    odd = staticmethod(lambda h: h)

    def encode(self, x):
        return self.odd(self.encoder(x))

    def validate(self, batch, rng):
        return {"loss": functional.mse_loss(self.decode(self.encoder(batch.x)), batch.x)}


def is_whole(trainer, tmp_path, caplog):
    """Train; return whether all epochs are on the board, and that there was at most one line of what is not."""
    trainer.fit()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) <= 1 and all("TensorBoard" in line for line in lines)
    events = read(tmp_path / "run")
    assert steps(events, "val/loss") == [1, 2] and session(events)[1] == 1
    return trainer.epoch == 2 and (tmp_path / "run/checkpoints/last.pt").is_file()


@pytest.mark.parametrize("what", ODD_CODES)
def test_codes_of_any_kind_end_no_run(board, tmp_path, caplog, what):
    model = OddCodes(SHAPE, 4, encoder, decoder)
    model.odd = ODD_CODES[what]
    trainer = board(model=model, epochs=2)
    trainer.observers[0].pictures = lambda model: {}
    assert is_whole(trainer, tmp_path, caplog)


@pytest.mark.parametrize("what", ODD_PICTURES)
def test_pictures_of_any_kind_end_no_run(board, tmp_path, caplog, what):
    trainer = board(epochs=2)
    trainer.observers[0].pictures = lambda model: {"odd": ODD_PICTURES[what]}
    assert is_whole(trainer, tmp_path, caplog)


def test_thumbnails_of_long_images_stay_small(board, tmp_path):
    # A square of 4096 pixels for each of a thousand images would take 67 GB.
    writer, given = board().observers[0], {}
    writer.writer = SimpleNamespace(add_embedding=lambda codes, labels, x, *rest, **named: given.update(x=x))
    writer.add_embedding(
        torch.rand(1000, 4), [Batch(torch.rand(1000, 1, 1, 4096), torch.zeros(1000).long(), torch.arange(1000))], 1
    )
    assert given["x"].shape == (1000, 1, 64, 64)
