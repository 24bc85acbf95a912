"""What is exported gives the same numbers elsewhere, without aectl, for any number of images."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aectl import export
from aectl.export import ExportError
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Model
from aectl.models.classifier import Classifier
from aectl.models.gan import GAN
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from aectl.models.penalty import L1
from aectl.models.vae import VAE

SHAPE = (1, 8, 8)
METADATA = {"command": "aectl train model=dae 'x=é'", "config": {"seed": 0}, "metrics": {"mse": 0.25}}
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])
conv = partial(ConvEncoder, channels=[2, 3], pool=True), partial(ConvDecoder, channels=[3, 2], norm="batch")

MODELS = {
    "dense": (lambda: Autoencoder(SHAPE, 70, encoder, decoder, penalty=L1(), tied=True), {"encoder", "decoder"}),
    "conv": (lambda: Autoencoder(SHAPE, 4, *conv), {"encoder", "decoder"}),
    "vae": (lambda: VAE(SHAPE, 3, encoder, decoder), {"encoder", "decoder"}),
    "gan": (lambda: GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder), {"decoder"}),
    "classifier": (lambda: Classifier(SHAPE, 10, 6, encoder), {"encoder", "classifier"}),
}


def make(name):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for value in model.state_dict().values():
        if value.is_floating_point() and value.dim():  # statistics and averages too, which start at 0 and 1
            value.add_(0.1 * torch.rand_like(value))
    return model.eval().requires_grad_(False)


def example(model, part, n):
    shape = (model.code,) if part == "decoder" else SHAPE
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))


def expected(model, part, x):
    return getattr(model, export.PARTS[part][1])(x).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_all_weights_come_back_with_their_history(tmp_path, name):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (path,) = export.write(model.train(), SHAPE, tmp_path / "new", "safetensors", METADATA)
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


@pytest.mark.parametrize("name", [name for name in MODELS if name != "classifier"])
def test_onnx_computes_the_same(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make(name)
    paths = export.write(model, SHAPE, tmp_path, "onnx", METADATA)
    assert {path.name for path in paths} == {f"{part}.onnx" for part in MODELS[name][1]}
    for path in paths:
        assert b"aectl/" not in path.read_bytes()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["config"]) == METADATA["config"]
        (given,), (made,) = session.get_inputs(), session.get_outputs()
        assert (given.name, made.name) == export.PARTS[path.stem][2:]
        assert (given.shape[0], made.shape[0]) == ("batch", "batch")
        for n in (1, 7):
            x = example(model, path.stem, n)
            (found,) = session.run(None, {given.name: x.numpy()})
            assert np.allclose(found, expected(model, path.stem, x), atol=1e-5)


def test_programs_of_torch_run_where_there_is_no_aectl(tmp_path):
    cases = []
    for name in MODELS:
        model = make(name)
        paths = export.write(model, SHAPE, tmp_path / name, "torch", METADATA)
        assert {path.name for path in paths} == {f"{part}.pt2" for part in MODELS[name][1]}
        for path in paths:
            xs = [example(model, path.stem, n) for n in (1, 7)]
            cases.append((str(path), [(x, torch.from_numpy(expected(model, path.stem, x))) for x in xs]))
    torch.save(cases, tmp_path / "cases")
    code = (
        "import sys, torch; sys.modules['aectl'] = None\n"
        "for path, pairs in torch.load(sys.argv[1]):\n"
        "    notes = {'command': ''}\n"
        "    program = torch.export.load(path, extra_files=notes).module()\n"
        "    assert 'aectl train' in notes['command'], notes\n"
        "    for x, y in pairs:\n"
        "        assert torch.allclose(program(x), y, atol=1e-6), path\n"
        "    print(path)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "cases"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [path for path, _ in cases]


def test_a_part_carries_only_the_weights_that_it_uses(tmp_path):
    export.write(make("gan"), SHAPE, tmp_path, "torch", {})
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
        (Fixed(), "torch", r"^the encoder cannot be exported: .*batch"),
        (Undecided(), "onnx", r"^the encoder cannot be exported: .*data-dependent"),
        (Unsized(), "torch", "neither encode nor a width"),
        (Model(), "onnx", "neither encode, decode nor classify"),
        (Model(), "pickle", "safetensors, onnx, torch, not 'pickle'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(tmp_path, capfd, model, format, message):
    with pytest.raises(ExportError, match=message) as caught:
        export.write(model, SHAPE, tmp_path / "out", format, {})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ExportError, match=r"onnxscript: pip install 'aectl\[onnx\]'"):
        export.write(make("vae"), SHAPE, tmp_path, "onnx", {})
