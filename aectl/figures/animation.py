"""Figures of a model's images over training: a strip of a few epochs, and an animation of all epochs."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aectl.figures import image_grids, style
from aectl.system.atomic_write import write_atomically

GIVEN = ("x", "noisy")
"""Arrays with the inputs of reconstructions."""
EPOCHS = 10
"""Largest number of epochs in a strip, including the first and the last."""
PACE, PAUSE = 250, 2500
"""Milliseconds for which an epoch, and the last epoch, is shown."""
SIDE = 56
"""Approximate side of an image in pixels, after enlarging by an integer factor."""
MARGIN, HEAD, TEXT = 8, 32, 16
"""Pixels: margin around the images, height of the header, and font size."""


def draw_strip(made: dict[str, Tensor], title: str) -> Figure:
    """Show the first row of `images` [epochs, rows, columns, C, H, W] for a few of `epochs` [epochs], one per row.

    For reconstructions, the inputs `x` [columns, C, H, W] and, if present, `noisy` are shown above.
    """
    epochs = made["epochs"].tolist()
    chosen = np.unique(np.linspace(0, len(epochs) - 1, EPOCHS).round().astype(int))
    rows = {"input" if name == "x" else name: made[name] for name in GIVEN if name in made}
    rows |= {f"epoch {epochs[i]}": made["images"][i, 0] for i in chosen}
    return image_grids.sheet(torch.stack(list(rows.values())), title, labels=list(rows))


def write_animation(made: dict[str, Tensor], name: str, path: Path) -> Path:
    """Write `images` [epochs, rows, columns, C, H, W] as a looping GIF; return its path.

    The header of each frame shows `name` and the epoch. `x` and `noisy` are shown above the images, as in a strip.
    """
    given = [made[key][None] for key in GIVEN if key in made]
    each = zip(made["images"], made["epochs"].tolist(), strict=True)
    frames = [draw_frame(torch.cat([*given, shown]), f"{name}, epoch {epoch}") for shown, epoch in each]
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [PACE] * (len(frames) - 1) + [PAUSE]
    # Pillow does not accept a list of durations for a single frame.
    timing = durations if len(frames) > 1 else PAUSE
    with write_atomically(path, sync=False) as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=timing, loop=0)
    return path


def draw_frame(sheet: Tensor, words: str) -> Image.Image:
    """Return a frame of images [rows, columns, C, H, W] under a line of text, on white."""
    factor = max(1, round(SIDE / (sheet.shape[-1] + image_grids.gap(sheet))))
    pixels = (255 * image_grids.mosaic(sheet)).round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), TEXT)
    width = max(pixels.shape[1], int(font.getlength(words)) + 1)
    page = Image.new("RGB", (width + 2 * MARGIN, pixels.shape[0] + HEAD + MARGIN), "white")
    page.paste(Image.fromarray(pixels), (MARGIN, HEAD))
    ImageDraw.Draw(page).text((MARGIN, HEAD / 2), words, fill=style.INK, font=font, anchor="lm")
    # A grey image fits the 256 colours of a GIF exactly; an RGB image would be quantised.
    return page.convert("L") if sheet.shape[2] == 1 else page
