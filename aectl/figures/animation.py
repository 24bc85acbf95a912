"""How a model's pictures change over training: a strip of a few epochs, and an animation of all of them."""

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
"""What reconstructions are made of, if the pictures are such."""
EPOCHS = 10
"""At most so many in a strip, the first and the last among them."""
PACE, PAUSE = 250, 2500
"""Milliseconds that an epoch is shown, and the last one."""
SIDE = 56
"""Pixels: about what the side of an image is enlarged to, by a whole number."""
MARGIN, HEAD, TEXT = 8, 32, 16
"""Pixels: around the images, above them for the words, and the height of those."""


def strip(made: dict[str, Tensor], title: str) -> Figure:
    """Show the first row of `images` [epochs, rows, columns, C, H, W] after a few of `epochs` [epochs], one a row.

    Above them stand, if they were made of such, the images `x` [columns, C, H, W] and the `noisy` ones.
    """
    epochs = made["epochs"].tolist()
    chosen = np.unique(np.linspace(0, len(epochs) - 1, EPOCHS).round().astype(int))
    rows = {"input" if name == "x" else name: made[name] for name in GIVEN if name in made}
    rows |= {f"epoch {epochs[i]}": made["images"][i, 0] for i in chosen}
    return image_grids.sheet(torch.stack(list(rows.values())), title, labels=list(rows))


def animation(made: dict[str, Tensor], name: str, path: Path) -> Path:
    """Write `images` [epochs, rows, columns, C, H, W] as a GIF that begins again after its end; returns its path.

    Each frame is headed by `name` and its epoch; above the images stand `x` and `noisy`, as in a strip.
    """
    given = [made[key][None] for key in GIVEN if key in made]
    each = zip(made["images"], made["epochs"].tolist(), strict=True)
    frames = [frame(torch.cat([*given, shown]), f"{name}, epoch {epoch}") for shown, epoch in each]
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [PACE] * (len(frames) - 1) + [PAUSE]
    # One frame alone has one duration, and no list of them.
    timing = durations if len(frames) > 1 else PAUSE
    with write_atomically(path, sync=False) as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=timing, loop=0)
    return path


def frame(sheet: Tensor, words: str) -> Image.Image:
    """Return images [rows, columns, C, H, W] under a line of words, white around them."""
    factor = max(1, round(SIDE / (sheet.shape[-1] + image_grids.gap(sheet))))
    pixels = (255 * image_grids.mosaic(sheet)).round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), TEXT)
    width = max(pixels.shape[1], int(font.getlength(words)) + 1)
    page = Image.new("RGB", (width + 2 * MARGIN, pixels.shape[0] + HEAD + MARGIN), "white")
    page.paste(Image.fromarray(pixels), (MARGIN, HEAD))
    ImageDraw.Draw(page).text((MARGIN, HEAD / 2), words, fill=style.INK, font=font, anchor="lm")
    # Grey levels are colours enough for a GIF as they are; it would have to choose among others.
    return page.convert("L") if sheet.shape[2] == 1 else page
