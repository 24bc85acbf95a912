"""A recorded step is the step: same losses and weights, and where it would not be, none is recorded."""

import contextlib
import importlib
import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from aectl import parallel
from aectl.config import build, conf_dir
from aectl.config.schema import check_ranges
from aectl.data.noise import Gaussian
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Loss
from aectl.models.gan import GAN
from aectl.models.iwae import IWAE
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.rbm import RBM
from aectl.models.stacked import AutoencoderLayer, Stacked
from aectl.models.vae import VAE
from aectl.rng import Rng
from aectl.training import checkpoint, graph_recorder
from aectl.training.device import Device
from aectl.training.schedule import Cosine, Steps
from aectl.training.step_state import find_difference, python_state
from aectl.training.trainer import Observer
from tests.training.conftest import tiny
from tests.training.tape import TapeRecorder, taped

pytestmark = pytest.mark.slow
SHAPE = (1, 8, 8)
RATE = 2.0**-10
"""A power of two is the same number in single precision, so that recorded and plain steps agree to the bit."""
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Of losses and weights after two epochs with other rates, which are rounded by a relative 6e-8 at each step."""
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])

MODELS = {
    "dae": lambda: Autoencoder(SHAPE, 4, encoder, decoder, noise=Gaussian(), code_dropout=0.5),
    "conv": lambda: Autoencoder(
        SHAPE, 4, partial(ConvEncoder, channels=[2], norm="batch"), partial(ConvDecoder, channels=[3])
    ),
    "vae": lambda: VAE(SHAPE, 3, encoder, decoder),
    "iwae": lambda: IWAE(SHAPE, [3], encoder, decoder, samples=3, warm_up=4),
    "gan": lambda: GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder),
    "wgan_gp": lambda: GAN(SHAPE, 3, decoder, encoder, loss="wgan_gp", discriminator_steps=2, noise=Gaussian()),
    "relativistic": lambda: GAN(SHAPE, 3, decoder, encoder, loss="relativistic", r1=1, r2=1, noise=Gaussian()),
    "rbm": lambda: RBM(SHAPE, 8, persistent=10),
    "stacked": lambda: Stacked(
        SHAPE, 10, [8, 6], AutoencoderLayer, pretrain_epochs=1, pretrain_lr=RATE, noise=Gaussian()
    ),
}
RECORDINGS = {name: 3 if name == "stacked" else 1 for name in MODELS}
"""One for each stage."""
ADAM = partial(torch.optim.Adam, lr=RATE, fused=True)
OPTIMIZERS = sorted(path.stem for path in Path(conf_dir(), "optimizer").glob("*.yaml"))


def seeded(name):
    torch.manual_seed(0)
    return MODELS[name]()


def stop_after(steps):
    count = itertools.count()
    return lambda: "told" if next(count) >= steps else None


class Keep(Observer):
    """Keeps the numbers of each epoch, and the rate of each step."""

    def __init__(self):
        self.metrics, self.rates = [], []

    def stepped(self, trainer):
        self.rates.append(trainer.learning_rate())

    def epoch_ended(self, trainer, epoch):
        self.metrics.append({name: value for name, value in epoch.metrics.items() if name != "seconds"})


@pytest.fixture
def pair(make_trainer):
    """Return a function that makes two trainers of the same run, one plain and one that records its steps."""

    def make(model, **settings):
        trainers = []
        for graph in (False, True):
            keeper = Keep()
            one = {"optimizer": ADAM, "epochs": 2, **settings, "observers": [keeper]}
            trainer = make_trainer(model(), f"graph_{graph}", graph=graph, **one)
            trainer.keeper = keeper
            trainers.append(trainer)
        return trainers

    with taped() as make.recorder:
        yield make


def same(plain, graph, **close):
    """Assert that two trainers have come to the same numbers, exactly or within a tolerance."""
    for ours, theirs in zip(graph.keeper.metrics, plain.keeper.metrics, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=close.get("rtol", 0), abs=close.get("atol", 0)), name
    for (name, ours), theirs in zip(graph.model.state_dict().items(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, **(close or {"rtol": 0, "atol": 0}), msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(graph.rng.state(), plain.rng.state())


@pytest.mark.parametrize("name", MODELS)
def test_recorded_steps_come_to_what_plain_steps_come_to(pair, caplog, name):
    plain, graph = pair(partial(seeded, name))
    for trainer in (plain, graph):
        trainer.fit()
    assert not caplog.records
    assert pair.recorder.records == RECORDINGS[name]
    # Two of each recording are its check, and all other steps of the run are replays.
    assert pair.recorder.replays == 2 * RECORDINGS[name] + graph.epochs * 3
    same(plain, graph)


@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("name", ["dae", "gan", "stacked"])
def test_a_recorded_run_stopped_within_an_epoch_and_resumed_is_the_whole_one(make_trainer, tmp_path, name, steps):
    with taped() as tapes:
        whole = make_trainer(seeded(name), "whole", graph=True, optimizer=ADAM, epochs=3)
        assert whole.fit() is None
        for resumed_with in (True, False):
            first = make_trainer(seeded(name), "parts", graph=True, optimizer=ADAM, epochs=3)
            assert first.fit(stop_after(steps)) == "told"
            before = tapes.records
            second = make_trainer(seeded(name), "parts", graph=resumed_with, optimizer=ADAM, epochs=3)
            second.restore(checkpoint.load(tmp_path / "parts/last.pt"))
            assert second.fit() is None
            assert (tapes.records > before) == resumed_with
            for ours, theirs in zip(second.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
                assert torch.equal(ours, theirs)
    whole, parts = (checkpoint.load(tmp_path / f"{folder}/last.pt") for folder in ("whole", "parts"))
    assert equal(whole["optimizers"], parts["optimizers"])
    assert torch.equal(whole["rng"], parts["rng"])


def equal(a, b):
    """Whether two trees of dictionaries and lists hold the same numbers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)


def test_the_schedule_sets_the_rates_of_recorded_steps(pair, caplog):
    plain, graph = pair(partial(seeded, "dae"), schedule=Steps([1, 0.5, 0.25], [1, 1, 1]))
    for trainer in (plain, graph):
        trainer.fit()
    assert graph.keeper.rates == plain.keeper.rates == [RATE * factor for factor in (1, 1, 0.5, 0.5, 0.25, 0.25)]
    assert not caplog.records
    same(plain, graph)


def test_rates_that_single_precision_rounds_come_to_nearly_the_same(pair, caplog):
    for name in ("dae", "vae", "rbm"):
        optimizer = partial(torch.optim.Adam, lr=1e-3, fused=True)
        plain, graph = pair(partial(seeded, name), optimizer=optimizer, schedule=Cosine(warmup=0.2))
        for trainer in (plain, graph):
            trainer.fit()
        assert graph.keeper.rates == plain.keeper.rates
        assert not caplog.records
        same(plain, graph, **CLOSE)


def test_gradients_are_clipped_in_recorded_steps(pair, caplog):
    plain, graph = pair(partial(seeded, "gan"), grad_clip=0.01)
    for trainer in (plain, graph):
        trainer.fit()
    assert not caplog.records
    assert max(metrics["train/gradient_norm"] for metrics in graph.keeper.metrics) < 0.01 * 2**0.5 + 1e-6
    same(plain, graph)


def test_recorded_steps_may_compute_in_half_precision(pair, caplog):
    plain, graph = pair(partial(seeded, "vae"))
    for trainer in (plain, graph):
        trainer.device.precision = "bf16"
        trainer.fit()
    assert not caplog.records
    same(plain, graph)


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_every_optimizer_is_recorded_or_said_not_to_be(pair, caplog, monkeypatch, option):
    # Of those that are not fused torch lets none be recorded on a CPU, though it could, nor takes its way of a GPU.
    rmsprop = importlib.import_module("torch.optim.rmsprop")
    monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu", "cuda"])
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        words = ["+optimizer.foreach=true"] if option == "rmsprop" else []
        config = compose("train", ["dataset=digits", f"optimizer={option}", f"optimizer.lr={RATE}", *words])
    check_ranges(config)
    plain, graph = pair(partial(seeded, "dae"), optimizer=build(config.optimizer, "optimizer"))
    for trainer in (plain, graph):
        trainer.fit()
    lines = [record.getMessage() for record in caplog.records]
    is_refused = option == "adagrad"
    assert lines == (
        ["device.graph: falling back to unrecorded steps: Adagrad cannot be recorded"] if is_refused else []
    )
    # RMSprop divides by the rate before it multiplies, where the rate is a tensor.
    same(plain, graph, **(CLOSE if option == "rmsprop" else {}))


def test_an_optimizer_whose_first_step_is_unlike_the_others_is_recorded_from_a_resume_on(pair, caplog, tmp_path):
    damped = partial(torch.optim.SGD, lr=RATE, momentum=0.5, dampening=0.5, fused=True)
    plain, graph = pair(partial(seeded, "dae"), optimizer=damped)
    plain.fit()
    graph.fit(stop_after(1))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "a recorded step differs from an unrecorded one: model." in line
    assert pair.recorder.replays == 1
    graph.restore(checkpoint.load(tmp_path / "graph_True/last.pt"))
    graph.fit()
    assert len(caplog.records) == 1
    assert pair.recorder.replays == 1 + 2 + 5
    same(plain, graph)


class Odd(Autoencoder):
    """An autoencoder whose steps do something besides, by name."""

    def __init__(self, trick):
        super().__init__(SHAPE, 4, encoder, decoder)
        self.trick, self.count, self.schedule, self.drawn = trick, 0, SimpleNamespace(weights=[1.0]), Rng(5)
        self.register_buffer("chain", torch.zeros(3))
        self.register_buffer("warmth", torch.zeros(()))
        self.outside = itertools.count(1)

    def losses(self, batch, stage, rng):
        factor = getattr(self, self.trick)(batch, rng)
        for loss in super().losses(batch, stage, rng):
            yield Loss(loss.value * factor, metrics={"factor": torch.zeros(()) + factor})

    def counter(self, batch, rng):
        self.count += 1
        return self.count

    def holder(self, batch, rng):
        self.schedule.weights[0] /= 2
        return self.schedule.weights[0]

    def iterator(self, batch, rng):
        return next(self.outside)

    def assigned(self, batch, rng):
        self.chain = self.chain + 1
        return self.chain.sum()

    def source(self, batch, rng):
        return self.drawn.uniform(1).squeeze()

    def read(self, batch, rng):
        return 2.0 if batch.x.mean().item() > 0.5 else 1.0

    def mask(self, batch, rng):
        return batch.x[batch.x > 0.5].mean()

    def unseen(self, batch, rng):
        HIDDEN[0] += 1
        return HIDDEN[0]

    def in_place(self, batch, rng):
        self.warmth += 1
        return self.warmth


HIDDEN = [0]
REFUSED = {
    "counter": "each step changes 'count' of the model",
    "holder": "each step changes 'schedule' of the model",
    "iterator": "each step changes 'outside' of the model",
    "assigned": "each step changes 'chain' of the model",
    "source": "each step changes 'drawn' of the model",
    "read": "HostRead: aten._local_scalar_dense.default",
    "mask": "HostRead: aten.index.Tensor",
    "unseen": "two unrecorded steps from the same state differ: loss has other values",
}


@pytest.mark.parametrize("trick", REFUSED)
def test_a_step_that_recording_would_change_is_not_recorded_and_nothing_is_lost(pair, caplog, trick):
    plain, graph = pair(partial(made, trick))
    for trainer in (plain, graph):
        HIDDEN[0] = 0
        trainer.fit()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"device.graph: falling back to unrecorded steps: {REFUSED[trick]}")
    # What stands outside of the model nobody can put back.
    if trick != "unseen":
        same(plain, graph)


@pytest.mark.parametrize("penalties", [{"r1": 1, "r2": 1}, {"gradient_penalty": 1}])
def test_penalties_on_some_steps_only_are_recorded(pair, caplog, penalties):
    def lazy():
        torch.manual_seed(0)
        return GAN(SHAPE, 3, decoder, encoder, penalty_every=2, **penalties)

    plain, graph = pair(lazy)
    for trainer in (plain, graph):
        trainer.fit()
    assert not caplog.records
    assert graph.model.penalty_schedule.count == plain.model.penalty_schedule.count > 2
    same(plain, graph)


def test_a_count_in_a_buffer_is_recorded(pair, caplog):
    plain, graph = pair(partial(made, "in_place"))
    for trainer in (plain, graph):
        trainer.fit()
    assert not caplog.records
    assert float(graph.model.warmth) == 6
    same(plain, graph)


def made(trick):
    torch.manual_seed(0)
    return Odd(trick)


class Stale(TapeRecorder):
    """Makes every step, but tells of the first one for ever."""

    def record(self, function, generator):
        replay, kept = super().record(function, generator), {}

        def again():
            told = replay()
            kept.update(kept or {name: value.clone() for name, value in told.items()})
            return kept

        return again


class Twice(TapeRecorder):
    """Makes two steps of each, but tells of one."""

    def record(self, function, generator):
        replay = super().record(function, generator)

        def twice():
            kept = {name: value.clone() for name, value in replay().items()}
            replay()
            return kept

        return twice


class Broken(TapeRecorder):
    """Fails behind a step, and leaves the generator unfit for use."""

    unfit = None

    def record(self, function, generator):
        function()
        Broken.unfit = generator
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with `TORCH_USE_CUDA_DSA`")
        finally:
            raise RuntimeError("capture was invalidated")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Stale, "a recorded step differs from an unrecorded one: loss_discriminator has other values"),
        (Twice, "a recorded step differs from an unrecorded one: model."),
        (Broken, "RuntimeError: operation not permitted when stream is capturing"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_recording_that_fails_leaves_the_plain_run(make_trainer, tmp_path, caplog, kind, why, resumed):
    ends = []
    for graph in (False, True):
        with taped(kind):
            trainer = make_trainer(seeded("gan"), f"run_{graph}", graph=graph, optimizer=ADAM)
            if resumed:
                make_trainer(seeded("gan"), f"run_{graph}", optimizer=ADAM).fit(stop_after(4))
                trainer.restore(checkpoint.load(tmp_path / f"run_{graph}/last.pt"))
            trainer.fit()
        ends.append(checkpoint.load(tmp_path / f"run_{graph}/last.pt"))
    assert trainer.rng.generator is not Broken.unfit
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"device.graph: falling back to unrecorded steps: {why}")
    assert "\n" not in line
    for part in ("model", "optimizers", "rng", "meter"):
        assert equal(ends[0][part], ends[1][part])


def test_a_recorded_step_takes_what_it_was_recorded_with(pair):
    _, graph = pair(partial(seeded, "dae"))
    graph.fit(stop_after(2))
    with pytest.raises(ValueError, match="batches of one size"):
        graph.engine.step_on(graph.examples, torch.arange(1), graph.rng)
    with pytest.raises(ValueError, match="one source"):
        graph.engine.step_on(tiny(96, 3), torch.arange(32), graph.rng)


def test_a_graph_needs_cuda_and_one_process(monkeypatch):
    with pytest.raises(ValueError, match="graph=true needs CUDA, and the device is cpu"):
        Device("cpu", graph=True)
    monkeypatch.setattr(parallel, "count", lambda: 2)
    with taped(), pytest.raises(ValueError, match=r"graph=true needs one process, and device\.count is 2"):
        Device("cpu", graph=True)


def test_the_command_records_steps_where_it_is_told_to(aectl, tmp_path):
    words = ("train", "model=vae", "dataset=digits", "epochs=2", "batch_size=256", "device=cpu", "device.threads=1")
    code, _, err = aectl(*words, "device.graph=true")
    assert code != 0
    assert "device: graph=true needs CUDA, and the device is cpu" in err
    with taped() as tapes:
        assert aectl(*words, "device.graph=true", "hydra.run.dir=run")[0] == 0
    # 1287 images make five batches.
    assert (tapes.records, tapes.replays) == (1, 2 + 10)
    assert json.loads((tmp_path / "run/run.json").read_text())["device"]["graph"] is True


def test_a_difference_is_measured_by_the_way_that_was_gone():
    start, end = torch.zeros(4), torch.ones(4)
    for off, is_found in ((0.9e-3, False), (1.1e-3, True), (float("nan"), True)):
        found = find_difference({"w": end + off}, {"w": end}, {"w": end}, {"w": start})
        assert (found == "w has other values (and 0 more)") == is_found
    # A small step of large weights counts by its length, and what two plain runs differ by is nobody's fault.
    large, further = torch.full((4,), 10.0), torch.full((4,), 10.01)
    args = ({"w": large}, {"w": further}, {"w": further}, {"w": large})
    assert find_difference(*args)
    assert not find_difference({"w": large}, {"w": further}, {"w": large}, {"w": large})
    assert find_difference({"n": torch.tensor(2)}, {"n": torch.tensor(3)}, {"n": torch.tensor(3)}, {})
    assert find_difference({}, {"w": end}, {"w": end}, {}) == "w is in only one of the results"


def test_the_state_that_python_holds_is_told_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.seen, model.table = 0, {"a": [torch.zeros(1)]}
    before = python_state(model)
    model(torch.zeros(3, 2))
    assert python_state(model) == before
    for change, name in (
        (lambda: setattr(model, "seen", 1), "seen"),
        (lambda: model.table["a"][0].add_(1), "table"),
        (lambda: setattr(model[1], "running_mean", torch.zeros(2)), "1.running_mean"),
        (lambda: model.train(False), "training"),
    ):
        before = python_state(model)
        change()
        after = python_state(model)
        assert name in [key for key in before if before[key] != after[key]]


class FakeCuda:
    """What `torch.cuda` is asked while recording, in order."""

    def __init__(self, monkeypatch, fails=False):
        self.said, self.fails, self.mode, self.current = [], fails, 0, self
        monkeypatch.setattr(graph_recorder.torch, "cuda", self)

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.said.append("side waits"))

    def wait_stream(self, other):
        self.said.append("main waits")

    def current_stream(self):
        return self.current

    def set_stream(self, stream):
        self.current = stream

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.current = stream
        self.said.append("capture")
        yield
        if self.fails:
            raise RuntimeError("invalidated")
        self.current = self

    def CUDAGraph(self):
        return SimpleNamespace(
            register_generator_state=lambda generator: self.said.append("register"),
            replay=lambda: self.said.append("replay"),
        )

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        self.mode = mode


def test_cuda_is_warmed_up_aside_and_strictly_then_captured(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    made = graph_recorder.CudaRecorder()
    modes = []
    made.warm_up(lambda: modes.append((cuda.mode, cuda.current is made.stream)))
    assert modes == [(0, True), (0, True), ("error", True)]
    assert (cuda.mode, cuda.current) == (0, cuda)
    result = {"loss": torch.zeros(())}
    replay = made.record(lambda: cuda.said.append("step") or result, torch.Generator())
    assert replay() is result
    assert cuda.said == ["side waits", "main waits", "register", "capture", "step", "replay"]


def test_cuda_is_left_as_it_was_by_what_fails(monkeypatch):
    cuda = FakeCuda(monkeypatch, fails=True)
    made = graph_recorder.CudaRecorder()
    with pytest.raises(ZeroDivisionError):
        made.warm_up(lambda: 1 / (cuda.mode != "error"))
    assert (cuda.mode, cuda.said[-1]) == (0, "main waits")
    cuda.current = cuda
    with pytest.raises(RuntimeError, match="invalidated"):
        made.record(dict, torch.Generator())
    assert cuda.current is cuda
