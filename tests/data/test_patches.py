"""Patches are windows of the images that they are cut from, binary, and those of one image stay in one split."""

import pytest
import torch

from aectl.data.datasets import digits
from aectl.data.patches import patches


def windows(image, side):
    """All windows of an image [H, W], as tuples."""
    found = image.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)
    return set(map(tuple, found.tolist()))


def originals():
    """All digits by their position: the whole set, from its two parts."""
    parts = [digits(valid=0).split(which) for which in ("train", "test")]
    return {int(i): x[0] for part in parts for i, x in zip(part.index, part.pixels(), strict=True)}


@pytest.mark.parametrize("side", [3, 4])
def test_each_patch_is_a_window_of_its_image_cut_at_the_threshold(side):
    part, images = patches(side=side, threshold=0.3).split("valid"), originals()
    assert part.shape == (1, side, side)
    assert part.pixels().unique().tolist() == [0, 1]
    for i, patch in zip(part.index.tolist(), part.pixels().flatten(1).tolist(), strict=True):
        assert tuple(patch) in windows((images[i] >= 0.3).float(), side)


def test_places_are_spread_over_the_whole_image():
    part, images = patches(side=6, per_image=40, blank=True).split("valid"), originals()
    for i in part.index.unique().tolist()[:10]:
        found = set(map(tuple, part.pixels()[part.index == i].flatten(1).tolist()))
        # Nine windows, each missed by forty draws once in a hundred.
        assert len(found) >= len(windows((images[i] >= 0.5).float(), 6)) - 1


def test_patches_without_ink_are_kept_only_if_asked_for():
    some, every = (patches("digits", 3, blank=blank, per_image=4) for blank in (False, True))
    assert some.split("train").pixels().flatten(1).any(1).all()
    whole = every.split("train")
    assert len(whole) == 4 * len(digits().split("train"))
    inked = whole.pixels()[whole.pixels().flatten(1).any(1)]
    assert 0 < len(whole) - len(inked) < len(whole)
    # The places are the same.
    assert torch.equal(some.split("train").pixels(), inked)


def test_no_image_has_patches_in_two_splits():
    data, whole = patches(), digits()
    for name in ("train", "valid", "test"):
        part, images = data.split(name), whole.split(name)
        assert set(part.index.tolist()) <= set(images.index.tolist())
        assert part.index.bincount().max() <= 8
        assert len(part) > 7 * len(images)
        labels = dict(zip(images.index.tolist(), images.labels.tolist(), strict=True))
        assert [labels[i] for i in part.index.tolist()] == part.labels.tolist()


def test_the_seed_decides_the_places_and_nothing_else_does():
    first, again, other = (patches(seed=seed, blank=True).split("test") for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(first.index, other.index)


def test_held_out_are_images_and_classes_can_be_left_out():
    data = patches(valid=20, per_image=3, blank=True, exclude=[3])
    assert len(data.split("valid").index.unique()) <= 20
    assert 3 not in data.split("train").labels
    assert 3 not in data.split("valid").labels
    assert set(data.split("excluded").labels.tolist()) == {3}
    assert 3 in data.split("test").labels
    assert not len(patches(valid=0).split("valid"))


def test_mnist_has_its_own_folder(tmp_path):
    with pytest.raises(ValueError, match="valid must be"):
        patches("mnist", root=str(tmp_path), valid=99999)
    data = patches("mnist", root=str(tmp_path), side=3)
    assert (data.shape, data.classes, data.valid) == ((1, 3, 3), 10, 5000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "faces"}, "of must be one of digits, mnist, fashion_mnist, not 'faces'"),
        ({"side": 1}, "side must lie between 2 and the 8 pixels"),
        ({"side": 9}, "side must lie between 2 and the 8 pixels"),
        ({"per_image": 0}, "per_image must be at least 1"),
        ({"threshold": 0.0}, "threshold must lie in"),
        ({"threshold": 1.1}, "threshold must lie in"),
        ({"valid": 5000}, "valid must be a count from 0 to 1,436"),
        ({"exclude": [12]}, "exclude must list classes from 0 to 9"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        patches(**settings)
