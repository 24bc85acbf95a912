"""Export a trained model: its weights as safetensors, or its parts as ONNX or `torch.export` programs."""

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
"""Images that a part is traced with. With one, the exporter would fix the batch size at 1."""

PARTS: dict[str, tuple[type, str, str, str]] = {
    "encoder": (Encodes, "encode", "images", "codes"),
    "decoder": (Decodes, "decode", "codes", "images"),
    "classifier": (Classifies, "classify", "images", "logits"),
    "energy": (Energy, "energy", "images", "energies"),
}
"""For each exported part: the ability it needs, its method, and the names of its input and output."""
LABELS = "labels"
"""The second input of a conditional model's decoder: classes [N], int64, from 0."""


class ExportError(ValueError):
    """The model cannot be exported in this format, or a package is missing."""


def export_model(
    model: Model, shape: Shape, folder: Path | str, format: str, metadata: Mapping[str, Any]
) -> list[Path]:
    """Write a trained model for images of `shape` into `folder`; return the paths of the files.

    `safetensors` writes model.safetensors with all weights and buffers under their names in the model. `onnx` and
    `torch` write the encoder, decoder and classifier that the model has as .onnx and .pt2 files; a model with none of
    these gets its energy exported. The parts run in evaluation mode, without noise, on batches of any size N. They map
    images [N, C, H, W], pixels in [0, 1], to codes [N, code], logits [N, classes] or energies [N], and codes to
    images. A generator is a decoder. A conditional decoder takes classes [N], int64, as a second input. Each file holds
    `shape` and `metadata`, each value as JSON.

    Raises ExportError, a ValueError, for an unknown format, a model without such a part, a method that the exporter
    cannot trace, and a missing ONNX package.
    """
    if format not in FORMATS:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, not '{format}'")
    # A copy: the caller's model stays on its device and in its mode.
    alone = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    notes = {
        key: json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
        for key, value in {"shape": shape, **metadata}.items()
    }
    contents = FORMATS[format](alone, shape, notes)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [write_file(Path(folder, name), content) for name, content in contents.items()]


def write_file(path: Path, content: bytes) -> Path:
    """Write a file atomically; return its path."""
    with write_atomically(path, sync=False) as file:
        file.write(content)
    return path


def to_safetensors(model: Model, shape: Shape, notes: Mapping[str, str]) -> dict[str, bytes]:
    """Return the safetensors file; equal weights and notes give equal bytes."""
    # The format does not allow tied weights to share memory: each name gets a copy.
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}
    content = safetensors.torch.save(weights, dict(notes))
    # The library writes the notes in an order that differs between processes.
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return {"model.safetensors": struct.pack("<Q", len(text)) + text + content[start:]}


def to_torch(model: Model, shape: Shape, notes: Mapping[str, str]) -> dict[str, bytes]:
    """Return each part as a program for `torch.export.load`.

    A program is a graph of torch's operators with its weights, so it loads without aectl. The notes are extra files of
    the archive: `torch.export.load(path, extra_files=notes)` fills in the values of a dict with their names as keys.
    """
    files = {}
    for name, program in export_programs(model, shape):
        stream = io.BytesIO()
        with quiet_exporter(name):
            torch.export.save(program, stream, extra_files=dict(notes))
        files[f"{name}.pt2"] = stream.getvalue()
    return files


def to_onnx(model: Model, shape: Shape, notes: Mapping[str, str]) -> dict[str, bytes]:
    """Return each part as an ONNX model with a dynamic dimension `batch`; the notes are its metadata_props."""
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
        # The exporter records file paths and source lines of this machine at each node.
        for node in onnx.model.graph:
            node.metadata_props.clear()
        onnx.model.metadata_props.update(notes)
        files[f"{name}.onnx"] = onnx.model_proto.SerializeToString(deterministic=True)
    return files


def export_programs(model: Model, shape: Shape) -> Iterator[tuple[str, ExportedProgram]]:
    """Yield each part's name and its program for batches of any size; raises ExportError if the model has no part."""
    parts = {name: method for name, (ability, method, _, _) in PARTS.items() if isinstance(model, ability)}
    if len(parts) > 1:
        # In a model with other parts, the energy may be a random estimate.
        parts.pop("energy", None)
    if not parts:
        raise ExportError(
            "this model has no part to export: it has no encode, decode, classify or energy; "
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
    """Wrap one method of a model as a module."""

    def __init__(self, model: Model, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Apply the method to a batch."""
        method = getattr(self.model, self.method)
        return method(x) if labels is None else method(x, labels)


def make_example_codes(model: Model, images: Tensor) -> Tensor:
    """Return one code per image, of the size that the model decodes; raises ExportError if the size is unknown."""
    if isinstance(model, Encodes):
        return torch.zeros_like(model.encode(images))
    if isinstance(code := getattr(model, "code", None), int):
        return torch.zeros(len(images), code)
    raise ExportError(
        "the decoder cannot be exported: its code size is unknown, the model needs encode or an int attribute `code`"
    )


def trace_part(part: Part, examples: Sequence[Tensor]) -> ExportedProgram:
    """Return a part as a program with only the weights it uses and without paths of this machine."""
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
    """Silence torch's exporters in the block; their errors become an ExportError for the part `name`."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # Deprecations inside torch and hints for its developers.
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
