"""A trained model for the world outside: its weights with their history, or its parts as programs that run alone."""

from __future__ import annotations

import copy
import io
import json
import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from aectl.models.base import Classifies, Decodes, Encodes, Energy, Model
from aectl.system.atomic_write import write_atomically

Shape = tuple[int, int, int]
"""Channels, height and width."""

EXAMPLES = 2
"""Images that a part is traced with; of one alone, the exporter would take the batch to be always one."""

PARTS: dict[str, tuple[type, str, str, str]] = {
    "encoder": (Encodes, "encode", "images", "codes"),
    "decoder": (Decodes, "decode", "codes", "images"),
    "classifier": (Classifies, "classify", "images", "logits"),
    "energy": (Energy, "energy", "images", "energies"),
}
"""For each file: the ability that it takes, its method, and the names of what goes in and comes out."""
LABELS = "labels"
"""The second input of a conditional model's decoder: classes [N], int64, counted from 0."""


class ExportError(ValueError):
    """A model that cannot be exported so, or packages that are missing for it; the message says why."""


def export_model(
    model: Model, shape: Shape, folder: Path | str, format: str, metadata: Mapping[str, Any]
) -> list[Path]:
    """Write a trained model, made for images of `shape`, into `folder`; returns the paths of the files.

    `safetensors`: model.safetensors, all weights and buffers by the names that they have in the model. `onnx` and
    `torch`: encoder, decoder and classifier as .onnx and .pt2, as far as the model has these abilities, or the energy
    of one that has none of them. They map batches of any size N, in evaluation mode and without noise: images
    [N, C, H, W] with pixels in [0, 1] to codes [N, code], logits [N, classes] or energies [N], and codes to images. A
    generator is a decoder; a conditional one takes classes [N], int64, as a second input. `metadata` is written into
    every file, each value as JSON, together with `shape`.

    Raises ExportError, a ValueError, for an unknown format, for a model that has no such part or whose method the
    exporter cannot follow, and where packages for ONNX are missing; it says which to install.
    """
    if format not in FORMATS:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, not '{format}'")
    # A copy, so that the model stays on its device and in its mode.
    alone = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    notes = {
        key: json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
        for key, value in {"shape": shape, **metadata}.items()
    }
    contents = FORMATS[format](alone, shape, notes)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [write_file(Path(folder, name), content) for name, content in contents.items()]


def write_file(path: Path, content: bytes) -> Path:
    """Write a file aside and rename it, so that it is whole or absent; returns its path."""
    with write_atomically(path, sync=False) as file:
        file.write(content)
    return path


def to_safetensors(model: Model, shape: Shape, notes: Mapping[str, str]) -> dict[str, bytes]:
    """Return the file with all weights and buffers; equal weights and notes give equal bytes."""
    # Tied weights share their memory, which the format does not allow: each name gets a copy of its own.
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}
    content = safetensors.torch.save(weights, dict(notes))
    # The library writes the notes in an order that changes from process to process.
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return {"model.safetensors": struct.pack("<Q", len(text)) + text + content[start:]}


def to_torch(model: Model, shape: Shape, notes: Mapping[str, str]) -> dict[str, bytes]:
    """Return each part as a program for `torch.export.load`.

    A graph of torch's own operators and the weights that it uses, so that it loads where aectl is not installed. Not
    TorchScript, which torch has deprecated; nor a pickled module, which would import aectl. The notes are among the
    archive's extra files: `torch.export.load(path, extra_files=notes)` fills in a dict that names them.
    """
    files = {}
    for name, program in export_programs(model, shape):
        stream = io.BytesIO()
        with quiet_exporter(name):
            torch.export.save(program, stream, extra_files=dict(notes))
        files[f"{name}.pt2"] = stream.getvalue()
    return files


def to_onnx(model: Model, shape: Shape, notes: Mapping[str, str]) -> dict[str, bytes]:
    """Return each part as an ONNX model, its batch dimension called `batch`; the notes are its metadata_props."""
    if missing := [package for package in ("onnx", "onnxscript") if find_spec(package) is None]:
        raise ExportError(f"ONNX needs the package {' and '.join(missing)}: pip install 'aectl[onnx]'")
    files = {}
    for name, program in export_programs(model, shape):
        given = input_names(model, name)
        names: dict[str, Any] = {
            "input_names": given,
            "output_names": [PARTS[name][3]],
            "dynamic_shapes": ({0: "batch"},) * len(given),
        }
        with quiet_exporter(name):
            onnx = cast("torch.onnx.ONNXProgram", torch.onnx.export(program, dynamo=True, verbose=False, **names))
        # What the exporter notes of each node are lines of this machine's source files.
        for node in onnx.model.graph:
            node.metadata_props.clear()
        onnx.model.metadata_props.update(notes)
        files[f"{name}.onnx"] = onnx.model_proto.SerializeToString(deterministic=True)
    return files


def export_programs(model: Model, shape: Shape) -> Iterator[tuple[str, ExportedProgram]]:
    """Yield each part of a model by name, as a program for batches of any size; raises ExportError if it has none."""
    parts = {name: method for name, (ability, method, _, _) in PARTS.items() if isinstance(model, ability)}
    if len(parts) > 1:
        # Of a model that has other parts it may be an estimate by random numbers.
        parts.pop("energy", None)
    if not parts:
        raise ExportError(
            "this model has no part to export: it neither encodes, decodes, classifies nor has an energy; "
            "export=safetensors writes its weights"
        )
    images = torch.zeros(EXAMPLES, *shape)
    labels = torch.zeros(EXAMPLES, dtype=torch.int64)
    for name, method in parts.items():
        examples = [make_example_codes(model, images) if name == "decoder" else images]
        examples += [labels] * (len(input_names(model, name)) - 1)
        with quiet_exporter(name):
            program = trace_part(Part(model, method), examples)
        yield name, program


def input_names(model: Model, name: str) -> list[str]:
    """Return the names of a part's inputs."""
    return [PARTS[name][2], *([LABELS] if name == "decoder" and model.conditional else [])]


class Part(nn.Module):
    """One method of a model as a module of its own."""

    def __init__(self, model: Model, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return what the method makes of a batch."""
        method = getattr(self.model, self.method)
        return method(x) if labels is None else method(x, labels)


def make_example_codes(model: Model, images: Tensor) -> Tensor:
    """Return codes of the size that a model decodes, one an image; raises ExportError if nothing tells the size."""
    if isinstance(model, Encodes):
        return torch.zeros_like(model.encode(images))
    if isinstance(code := getattr(model, "code", None), int):
        return torch.zeros(len(images), code)
    raise ExportError("the decoder cannot be exported: the model has neither encode nor a width `code`")


def trace_part(part: Part, examples: Sequence[Tensor]) -> ExportedProgram:
    """Return a part as a program with the weights that it uses, no others, and with no trace of this machine."""
    batch = ({0: Dim("batch")},) * len(examples)
    graph = torch.export.export(part, tuple(examples), dynamic_shapes=batch).module()
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    program = torch.export.export(graph, tuple(examples), dynamic_shapes=batch)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack"):
            node.meta.pop(key, None)
    return program


@contextmanager
def quiet_exporter(name: str) -> Iterator[None]:
    """Keep torch's exporters from talking, and turn their errors about the part called `name` into an ExportError."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # Their deprecations are of torch's own code, their hints for those who develop them.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if reason.startswith("Constraints violated (batch)"):
            reason = "it fixes the size of a batch, as len(x) does; x.shape[0] does not"
        raise ExportError(f"the {name} cannot be exported: {reason}") from error
    finally:
        logging.disable(before)


FORMATS: dict[str, Callable[[Model, Shape, Mapping[str, str]], dict[str, bytes]]] = {
    "safetensors": to_safetensors,
    "onnx": to_onnx,
    "torch": to_torch,
}
