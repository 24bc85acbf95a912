"""Why the generator's cost is not the lecture's formula: its gradient under a discriminator that grows too sure.

The experiment of Arjovsky & Bottou 2017 (figures 2 and 3): a generator is frozen, a fresh discriminator is trained
against it, and every now and then the gradient is measured that the generator would get.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import style
from aectl.models.gan import GAN
from aectl.rng import Rng
from aectl.runs.loading import build_model
from lecture import panels
from lecture.lab import Drawn, Lab, Numbers

STEPS, MEASURED_EVERY, BATCH = 600, 20, 128
COSTS = {
    "minimax": ("½ log(1 - D(G(z))), minimax", style.BLUE, "-"),
    "nonsaturating": ("-log D(G(z)), non-saturating", style.ORANGE, "--"),
}
"""What stands in the legend for the generator's costs, and the colours and dashes of their lines."""


def gradients(lab: Lab) -> Drawn:
    """The generator's gradient over the steps of a fresh discriminator, for both costs and two generators."""
    figure = panels.page(9.6, 4.3)
    std, epochs = float(lab.subject("gan").model.noise.std), lab.config("gan").epochs
    cases = {
        "gan_1": ("generator after 1 epoch", "gan-1", False),
        "gan": (f"generator after {epochs} epochs", "gan", False),
        "gan_noise": (f"… and noise σ = {std:.2g} on D's input", "gan", True),
    }
    numbers: Numbers = {}
    panes = figure.subplots(1, len(cases), sharey=True)
    for axes, (case, (title, run, noisy)) in zip(panes, cases.items(), strict=True):
        curve = against_fresh_discriminator(lab, run, noisy)
        style.dress(axes, title, style.LABEL + 1)
        for name, (label, colour, line) in COSTS.items():
            norms = [float(point[f"gradient_{name}"]) for point in curve.values()]
            axes.plot(list(curve), norms, line, color=colour, linewidth=1.8, label=label)
            numbers |= {f"{case}_{name}_first": norms[0], f"{case}_{name}_last": norms[-1]}
        axes.set_yscale("log")
        style.name_axes(axes, "steps of a fresh discriminator", "")
        numbers[f"{case}_ratio"] = numbers[f"{case}_nonsaturating_last"] / numbers[f"{case}_minimax_last"]
    style.name_axes(panes[0], "steps of a fresh discriminator", "‖gradient of the generator‖ (log scale)")
    panes[0].legend(fontsize=style.SMALL, frameon=False, title="generator minimises", title_fontsize=style.SMALL)
    return figure, numbers


def against_fresh_discriminator(lab: Lab, run: str, noisy: bool) -> dict[int, dict[str, Tensor]]:
    """Train a fresh discriminator against a run's frozen generator; return the gradients' norms by its step."""
    source = lab.digits.train
    model = with_fresh_discriminator(lab, run, source)
    if not noisy:
        model.noise = None
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    rng = Rng(0).fork("gradients")
    z = rng.normal(4 * BATCH, model.code)
    measured: dict[int, dict[str, Tensor]] = {}
    for step in range(STEPS + 1):
        if step % MEASURED_EVERY == 0:
            measured[step] = model.generator_gradient_norms(model.score(model.generator(z).sigmoid(), rng))
        with torch.no_grad():
            real = source.batch((rng.uniform(BATCH) * len(source)).long()).x
            fake = model.generator(rng.normal(BATCH, model.code)).sigmoid()
        cost = model.loss.discriminator(model.score(real, rng), model.score(fake, rng))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    return measured


def with_fresh_discriminator(lab: Lab, run: str, source: Source) -> GAN:
    """Return a run's generator, that of its best epoch, with an untrained discriminator."""
    model = build_model(lab.config(run), {"shape": source.shape, "classes": source.classes}, seed=1).eval()
    model.generator.load_state_dict(lab.subject(run).model.generator.state_dict())
    return model
