"""The least time that a step can take on this machine: its products of matrices alone, at their own shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch

SECONDS = 3.0
"""How long the products are measured."""

Layers = Sequence[tuple[int, int]]
"""Inputs and outputs of each dense layer, from the images on."""


def products(layers: Layers, batch: int) -> list[tuple[int, int, int]]:
    """Return (m, k, n) of each product of a step: forwards, gradients of weights, and of all inputs but the images."""
    found = []
    for number, (before, after) in enumerate(layers):
        found += [(batch, before, after), (after, batch, before)]
        found += [(batch, after, before)] if number else []
    return found


def seconds_of_step(layers: Layers, batch: int, dtype: torch.dtype = torch.float32) -> float:
    """Return the median seconds of a step's products, one after the other, into memory that is there already."""
    matrices = [
        (torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.empty(m, n, dtype=dtype))
        for m, k, n in products(layers, batch)
    ]
    taken, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        for a, b, c in matrices:
            torch.mm(a, b, out=c)
        taken.append(time.perf_counter() - began)
    return median(taken)
