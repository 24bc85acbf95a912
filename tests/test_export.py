"""What is exported gives the same numbers elsewhere, without aectl, for any number of images."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aectl.commands.sample import shipped_models
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Model
from aectl.models.boltzmann import Boltzmann
from aectl.models.classifier import Classifier
from aectl.models.dbm import DBM
from aectl.models.gan import GAN
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.penalty import L1
from aectl.models.vae import VAE
from aectl.runs import export
from aectl.runs.export import ExportError
from aectl.runs.loading import build_model
from tests.test_conf import DIGITS, FACTS, composed

SHAPE = (1, 8, 8)
METADATA = {"command": "aectl train model=dae 'x=é'", "config": {"seed": 0}, "metrics": {"mse": 0.25}}
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])
conv = partial(ConvEncoder, channels=[2, 3], pool=True), partial(ConvDecoder, channels=[3, 2], norm="batch")

MODELS = {
    "dense": (lambda: Autoencoder(SHAPE, 70, encoder, decoder, penalty=L1(), tied=True), {"encoder", "decoder"}),
    "conv": (lambda: Autoencoder(SHAPE, 4, *conv), {"encoder", "decoder"}),
    "vae": (lambda: VAE(SHAPE, 3, encoder, decoder), {"encoder", "decoder"}),
    "conditional vae": (lambda: VAE(SHAPE, 3, *conv, conditional=True, classes=10), {"encoder", "decoder"}),
    "gan": (lambda: GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder), {"decoder"}),
    "conditional": (lambda: GAN(SHAPE, 3, decoder, encoder, conditional=True, classes=10), {"decoder"}),
    "dbm": (lambda: DBM(SHAPE, [6, 5]), {"encoder"}),
    "boltzmann": (lambda: Boltzmann((1, 3, 3), 2), {"energy"}),
    "classifier": (lambda: Classifier(SHAPE, 10, 6, encoder), {"encoder", "classifier"}),
}


def make(name):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for value in model.state_dict().values():
        if value.is_floating_point() and value.dim():  # statistics and averages too, which start at 0 and 1
            value.add_(0.1 * torch.rand_like(value))
    return model.eval().requires_grad_(False)


def shape_of(name):
    return (1, 3, 3) if name == "boltzmann" else SHAPE


def examples(model, part, n, shape=SHAPE):
    """Return what a part takes, n of each."""
    rng = torch.Generator().manual_seed(n)
    x = torch.rand(n, *((model.code,) if part == "decoder" else shape), generator=rng)
    labels = torch.randint(10, (n,), generator=rng)
    return [x, labels][: 1 + (part == "decoder" and model.conditional)]


def expected(model, part, xs):
    return getattr(model, export.PARTS[part][1])(*xs).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_all_weights_come_back_with_their_history(tmp_path, name):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (path,) = export.export_model(model.train(), SHAPE, tmp_path / "new", "safetensors", METADATA)
    assert path == tmp_path / "new" / "model.safetensors"
    assert model.training
    other = MODELS[name][0]()
    other.load_state_dict(load_file(path))
    for key, value in other.state_dict().items():
        assert torch.equal(value, before[key])
    with safe_open(path, "pt") as file:
        notes = {key: json.loads(value) for key, value in file.metadata().items()}
    assert notes == {**METADATA, "shape": list(SHAPE)}


def test_equal_weights_are_equal_files():
    """The library's own order of the notes differs from call to call."""
    notes = {letter: letter for letter in "abcdefgh"}
    assert len({export.to_safetensors(make("vae"), SHAPE, notes)["model.safetensors"] for _ in range(5)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "classifier"])
def test_onnx_computes_the_same(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make(name)
    paths = export.export_model(model, shape_of(name), tmp_path, "onnx", METADATA)
    assert {path.name for path in paths} == {f"{part}.onnx" for part in MODELS[name][1]}
    for path in paths:
        assert b"aectl/" not in path.read_bytes()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["config"]) == METADATA["config"]
        given, (made,) = session.get_inputs(), session.get_outputs()
        assert [one.name for one in given] == export.input_names(model, path.stem)
        assert (given[0].name, made.name) == export.PARTS[path.stem][2:]
        assert {one.shape[0] for one in (*given, made)} == {"batch"}
        for n in (1, 7):
            xs = examples(model, path.stem, n, shape_of(name))
            (found,) = session.run(None, {one.name: x.numpy() for one, x in zip(given, xs, strict=True)})
            assert np.allclose(found, expected(model, path.stem, xs), atol=1e-5)


@pytest.mark.slow
def test_programs_of_torch_run_where_there_is_no_aectl(tmp_path):
    cases = []
    for name in MODELS:
        model = make(name)
        paths = export.export_model(model, shape_of(name), tmp_path / name, "torch", METADATA)
        assert {path.name for path in paths} == {f"{part}.pt2" for part in MODELS[name][1]}
        for path in paths:
            batches = [examples(model, path.stem, n, shape_of(name)) for n in (1, 7)]
            cases.append((str(path), [(xs, torch.from_numpy(expected(model, path.stem, xs))) for xs in batches]))
    torch.save(cases, tmp_path / "cases")
    code = (
        "import sys, torch; sys.modules['aectl'] = None\n"
        "for path, pairs in torch.load(sys.argv[1]):\n"
        "    notes = {'command': ''}\n"
        "    program = torch.export.load(path, extra_files=notes).module()\n"
        "    assert 'aectl train' in notes['command'], notes\n"
        "    for xs, y in pairs:\n"
        "        assert torch.allclose(program(*xs), y, atol=1e-6), path\n"
        "    print(path)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "cases"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [path for path, _ in cases]


@pytest.mark.slow
def test_a_part_carries_only_the_weights_that_it_uses(tmp_path):
    export.export_model(make("gan"), SHAPE, tmp_path, "torch", {})
    weights = torch.export.load(tmp_path / "decoder.pt2").state_dict
    assert any("average" in key for key in weights)
    assert not [key for key in weights if "discriminator" in key or "generator" in key]


class Fixed(Model):
    code = 4

    def encode(self, x):
        return x.view(2, -1)


class Undecided(Model):
    def encode(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Unsized(Model):
    def decode(self, z):
        return z.view(-1, *SHAPE)


@pytest.mark.parametrize(
    ("model", "format", "message"),
    [
        (Fixed(), "torch", r"^the encoder cannot be exported: .*size of a batch.* x.shape\[0\]"),
        (Undecided(), "onnx", r"^the encoder cannot be exported: .*data-dependent"),
        (Unsized(), "torch", "its code size is unknown, the model needs encode or an int attribute `code`"),
        (Model(), "onnx", "it has no encode, decode, classify or energy; export=safetensors"),
        (Model(), "pickle", "safetensors, onnx, torch, not 'pickle'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(tmp_path, capfd, model, format, message):
    with pytest.raises(ExportError, match=message) as caught:
        export.export_model(model, SHAPE, tmp_path / "out", format, {})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ExportError, match=r"onnxscript: pip install 'aectl\[onnx\]'"):
        export.export_model(make("vae"), SHAPE, tmp_path, "onnx", {})


UNABLE = ("fvsbn", "made", "nade")
"""They have log p(x) alone, of binary draws of the pixels."""


def test_every_shipped_model_has_a_part_or_is_known_to_have_none():
    methods = [method for _, method, _, _ in export.PARTS.values()]
    without = [name for name, model in shipped_models().items() if not any(hasattr(model, one) for one in methods)]
    assert without == [*UNABLE]


@pytest.mark.slow
@pytest.mark.parametrize("words", [*[(name,) for name in shipped_models()], ("gan_conv", "model.conditional=true")])
def test_every_shipped_model_computes_the_same_as_onnx(tmp_path, words, tally):
    onnxruntime = pytest.importorskip("onnxruntime")
    facts = FACTS.get(words[0], DIGITS)
    model = build_model(composed(f"model={words[0]}", "dataset=digits", *words[1:]), facts).eval().requires_grad_(False)
    if words[0] in UNABLE:
        with pytest.raises(ExportError, match="no part to export"):
            export.export_model(model, facts["shape"], tmp_path, "onnx", {})
        return
    for path in export.export_model(model, facts["shape"], tmp_path, "onnx", {}):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        code = session.get_inputs()[0].shape[-1]
        xs = examples(SimpleNamespace(code=code, conditional=model.conditional), path.stem, 3, facts["shape"])
        (found,) = session.run(
            None, dict(zip(export.input_names(model, path.stem), [x.numpy() for x in xs], strict=True))
        )
        assert np.allclose(found, expected(model, path.stem, xs), atol=1e-4)
        tally("parts of models that ONNX computes as torch does")
