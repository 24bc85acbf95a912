"""The report on a model: one table for each thing it can do, with its baselines in the same table."""

from __future__ import annotations

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.codes import sparsity
from aectl.evaluation.denoising import AffineDenoiser
from aectl.evaluation.generation import SAMPLES, class_shares
from aectl.evaluation.reconstruction import PCA, Row, affine_basis, apply, fidelity
from aectl.models.base import Decodes, Encodes, Model, Reconstructs, Samples
from aectl.rng import Rng

Report = dict[str, dict[str, Row]]
"""Tables by name; a table is rows by name."""


def report(model: Model, train: Source, held_out: Source, seed: int) -> Report:
    """Return the tables that the model's abilities allow, measured on `held_out`, baselines fitted on `train`."""
    x = held_out.pixels()
    tables: Report = {}
    codes = apply(model.encode, x) if isinstance(model, Encodes) else None
    if isinstance(model, Reconstructs):
        tables["reconstruction"] = reconstruction(model, train, x, codes)
        if getattr(model, "noise", None) is not None:
            tables["denoising"] = denoising(model, train, x, seed)
    if codes is not None:
        tables["codes"] = {"model": sparsity(codes)}
    if isinstance(model, Samples) and train.classes:
        tables["classes of samples (%)"] = samples(model, train, x, seed)
    return tables


def reconstruction(model: Reconstructs, train: Source, x: Tensor, codes: Tensor | None) -> dict[str, Row]:
    """Return the table of clean images: the model, PCA of the same code size, PCA of as many units as are active."""
    rows = {"model": fidelity(x, apply(model.reconstruct, x))}
    if codes is None:
        return rows
    pca = PCA(train)
    pixels = x[0].numel()
    sizes = {min(codes.shape[1], pixels)}
    active = round(sparsity(codes)["active_units"])
    if 0 < active < 0.9 * min(sizes):
        sizes.add(active)
    for size in sorted(sizes, reverse=True):
        rows[f"PCA-{size}"] = fidelity(x, apply(lambda chunk, k=size: pca.reconstruct(chunk, k), x))
    if isinstance(model, Decodes) and codes.shape[1] < pixels:
        basis = affine_basis(model, codes.shape[1], x.device)
        if basis is not None:
            rows["model"]["angle_to_pca_deg"] = pca.largest_angle_deg(basis)
    return rows


def denoising(model: Model, train: Source, x: Tensor, seed: int) -> dict[str, Row]:
    """Return the table under the model's own noise, the same draw for every row."""
    rng = Rng(seed, x.device).fork("denoising")
    with torch.no_grad():
        noisy = model.noise(x, rng.fork("test"))
        affine = AffineDenoiser(train, model.noise, rng.fork("fit"))
    return {
        "model": fidelity(x, apply(model.reconstruct, noisy)),
        "best affine": fidelity(x, affine(noisy)),
        "noisy input": fidelity(x, noisy),
    }


@torch.no_grad()
def samples(model: Samples, train: Source, x: Tensor, seed: int) -> dict[str, Row]:
    """Return the table of the classes that samples fall into, beside those that held-out images do."""
    drawn = model.sample(SAMPLES, rng=Rng(seed, x.device).fork("samples"))
    return {"model": class_shares(drawn, train), "held-out images": class_shares(x, train)}
