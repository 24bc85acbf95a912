"""Why the generator's cost is not the lecture's formula: its gradient under a discriminator that grows too sure.

The experiment of Arjovsky & Bottou 2017 (figures 2 and 3): a generator is frozen, a fresh discriminator is trained
against it, and every now and then the gradient is measured that the generator would get.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.data.datasets import Source
from aectl.figures import style
from aectl.loading import build_model
from aectl.models.gan import minimax
from aectl.rng import Rng
from lecture import panels
from lecture.lab import Drawn, Lab, Numbers

STEPS, MEASURED_EVERY, BATCH = 600, 20, 128
COSTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "minimax": ("log(1 - D(G(z))), minimax", lambda scores: -F.softplus(scores).mean()),
    "nonsaturating": ("-log D(G(z)), non-saturating", lambda scores: F.softplus(-scores).mean()),
}
"""The generator's cost, of the discriminator's scores before the sigmoid; without the ½ of `model.loss=minimax`."""
Curve = dict[int, dict[str, float]]
"""By the discriminator's step: the norm of each cost's gradient, and the `accuracy` of the discriminator."""
Corruption = Callable[[Tensor], Tensor]


def gradients(lab: Lab) -> Drawn:
    """The generator's gradient over the steps of a fresh discriminator, for both costs and two generators."""
    figure = panels.page(9.6, 4.3)
    noise, epochs = lab.subject("gan").model.noise, lab.config("gan").epochs
    cases = {
        "gan_1": ("generator after 1 epoch", "gan-1", None),
        "gan": (f"generator after {epochs} epochs", "gan", None),
        "gan_noise": (f"… and noise σ = {float(noise.std):.2g} on D's input", "gan", noise),
    }
    numbers: Numbers = {}
    panes = figure.subplots(1, len(cases), sharey=True)
    for axes, (case, (title, run, corruption)) in zip(panes, cases.items(), strict=True):
        curve = against_fresh_discriminator(lab, run, corruption, STEPS)
        style.dress(axes, title, style.LABEL + 1)
        for (name, (label, _)), look in zip(COSTS.items(), ((style.BLUE, "-"), (style.ORANGE, "--")), strict=True):
            norms = [point[name] for point in curve.values()]
            axes.plot(list(curve), norms, color=look[0], linestyle=look[1], linewidth=1.8, label=label)
            numbers |= {f"{case}_{name}_first": norms[0], f"{case}_{name}_last": norms[-1]}
        axes.set_yscale("log")
        style.name_axes(axes, "steps of a fresh discriminator", "")
        numbers[f"{case}_accuracy"] = curve[max(curve)]["accuracy"]
        numbers[f"{case}_ratio"] = numbers[f"{case}_nonsaturating_last"] / numbers[f"{case}_minimax_last"]
    style.name_axes(panes[0], "steps of a fresh discriminator", "‖gradient of the generator‖ (log scale)")
    panes[0].legend(fontsize=style.SMALL, frameon=False, title="generator minimises", title_fontsize=style.SMALL)
    return figure, numbers


def against_fresh_discriminator(lab: Lab, run: str, noise: nn.Module | None, steps: int) -> Curve:
    """Train a fresh discriminator against a run's frozen generator; return the gradient norms and accuracy by step."""
    model, source = lab.subject(run).model, lab.digits.train
    generator = model.generator
    discriminator = fresh_discriminator(lab, run, source)
    rng = Rng(0).fork("gradients")
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def corrupt(x: Tensor) -> Tensor:
        return x if noise is None else noise(x, rng)

    z = rng.normal(4 * BATCH, model.code)
    measured: Curve = {}
    for step in range(steps + 1):
        if step % MEASURED_EVERY == 0:
            measured[step] = measure(generator, discriminator, z, corrupt, source)
        with torch.no_grad():
            real = source.batch((rng.uniform(BATCH) * len(source)).long()).x
            fake = generator(rng.normal(BATCH, model.code)).sigmoid()
        cost = minimax(discriminator(corrupt(real)).squeeze(1), discriminator(corrupt(fake)).squeeze(1))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    return measured


def fresh_discriminator(lab: Lab, run: str, source: Source) -> nn.Module:
    """Return an untrained discriminator like the run's."""
    facts = {"shape": source.shape, "classes": source.classes}
    return build_model(lab.config(run), facts, seed=1).discriminator


def measure(
    generator: nn.Module, discriminator: nn.Module, z: Tensor, corrupt: Corruption, source: Source
) -> dict[str, float]:
    """Return the norm of each cost's gradient with respect to the generator's weights, and D's accuracy."""
    weights = list(generator.requires_grad_(True).parameters())
    scores = discriminator(corrupt(generator(z).sigmoid())).squeeze(1)
    found = {}
    for name, (_, cost) in COSTS.items():
        parts = torch.autograd.grad(cost(scores), weights, retain_graph=True)
        found[name] = float(torch.cat([part.flatten() for part in parts]).norm())
    generator.requires_grad_(False)
    with torch.no_grad():
        real = discriminator(corrupt(source.batch(torch.arange(min(len(z), len(source)))).x)).squeeze(1)
    found["accuracy"] = float(torch.cat([real > 0, scores <= 0]).float().mean())
    return found
