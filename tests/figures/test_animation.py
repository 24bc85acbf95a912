"""What a model makes after each epoch, as a strip and as an animation."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from aectl.figures import animation, image_grids
from aectl.figures.style import save
from aectl.rng import Rng


def made(epochs, given=(), shape=(1, 8, 8), rows=2, columns=5):
    """Return pictures after each of `epochs` that grow brighter, and what they were made of."""
    shades = torch.linspace(0, 1, len(epochs)).view(-1, 1, 1, 1, 1, 1)
    return {
        **{key: Rng(i).uniform(columns, *shape) for i, key in enumerate(given)},
        "images": shades.expand(-1, rows, columns, *shape),
        "epochs": torch.tensor(epochs),
    }


def labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def frames(path):
    with Image.open(path) as image:
        return [
            (frame.info["duration"], np.asarray(frame.convert("RGB"), dtype=int))
            for frame in ImageSequence.Iterator(image)
        ]


def test_a_strip_has_a_row_for_each_epoch_and_above_what_was_given(tmp_path):
    figure = animation.draw_strip(made([1, 2, 5], given=("x", "noisy")), "a title")
    assert labels(figure) == ["input", "noisy", "epoch 1", "epoch 2", "epoch 5"]
    assert labels(animation.draw_strip(made([1, 2]), "a title")) == ["epoch 1", "epoch 2"]
    assert np.asarray(Image.open(save(figure, tmp_path / "strip.png")).convert("L")).std() > 5


def test_a_strip_shows_the_first_row_of_each_epoch_beneath_the_images():
    content = made([1, 2, 3], given=("x",))
    content["images"] = content["images"].clone()
    content["images"][:, 1] = 0.5  # no row of the strip's
    (axes,) = animation.draw_strip(content, "a title").axes
    expected = torch.stack([content["x"], *content["images"][:, 0]])
    assert np.allclose(axes.images[0].get_array(), image_grids.mosaic(expected))


def test_of_many_epochs_a_strip_shows_ten_the_first_and_the_last_among_them():
    shown = labels(animation.draw_strip(made(list(range(1, 101))), "a title"))
    assert shown == [f"epoch {epoch}" for epoch in (1, 12, 23, 34, 45, 56, 67, 78, 89, 100)]


def test_an_animation_shows_every_epoch_and_rests_at_the_last(tmp_path):
    path = animation.write_animation(made([1, 2, 3, 4]), "vae", tmp_path / "new" / "training.gif")
    found = frames(path)
    assert [duration for duration, _ in found] == [250, 250, 250, 2500]
    with Image.open(path) as image:
        assert image.info["loop"] == 0
    # Two rows of five images, enlarged six times, between a margin and the words.
    assert {frame.shape for _, frame in found} == {(2 * 9 * 6 - 6 + 32 + 8, 5 * 9 * 6 - 6 + 16, 3)}
    middle = [frame[32 + 5, 8 + 5].tolist() for _, frame in found]
    assert middle == [[0] * 3, [85] * 3, [170] * 3, [255] * 3]


def test_words_tell_the_epochs_apart(tmp_path):
    content = made([1, 2, 3])
    content["images"] = torch.zeros_like(content["images"])
    found = frames(animation.write_animation(content, "dae", tmp_path / "training.gif"))
    heads = [frame[:32] for _, frame in found]
    assert all((head < 128).sum() > 50 for head in heads)
    assert not np.array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[1], heads[2])
    assert np.array_equal(found[0][1][32:], found[2][1][32:])


def test_what_pictures_were_made_of_stands_above_them_in_every_frame(tmp_path):
    content = made([1, 2], given=("x", "noisy"), rows=1)
    found = frames(animation.write_animation(content, "dae", tmp_path / "training.gif"))
    for _, frame in found:
        for row, key in enumerate(("x", "noisy")):
            top = 32 + row * 9 * 6
            tile = frame[top + 3 : top + 48 : 6, 8 + 3 : 8 + 48 : 6, 0]
            assert np.abs(tile - 255 * content[key][0, 0].numpy()).max() < 2


def test_colours_stay_and_a_single_epoch_is_a_picture_that_stands(tmp_path):
    content = made([7], shape=(3, 12, 10))
    red = torch.tensor([1.0, 0.2, 0.1]).view(3, 1, 1)
    content["images"] = red.expand(1, 2, 5, 3, 12, 10)
    path = animation.write_animation(content, "vae", tmp_path / "training.gif")
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 1
        assert image.info["duration"] == 2500
        shown = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(shown[32 + 20, 8 + 20] - 255 * np.array([1.0, 0.2, 0.1])).max() < 8


@pytest.mark.parametrize(("side", "factor"), [(8, 6), (28, 2), (64, 1), (200, 1)])
def test_small_images_are_enlarged_by_a_whole_number(side, factor):
    sheet = torch.zeros(1, 3, 1, side, side)
    width = animation.draw_frame(sheet, "a").width
    assert width == factor * image_grids.mosaic(sheet).shape[1] + 16


def test_long_words_have_room():
    short, long = (animation.draw_frame(torch.zeros(1, 1, 1, 8, 8), words) for words in ("a", "a" * 100))
    assert long.width > 5 * short.width
    assert np.asarray(long)[:, -8:].min() == 255
