"""One's own images: every kind of file becomes what the model was trained on, and what it makes of them is written."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from aectl.commands import eval_user_images
from aectl.data.downloads import DataError
from aectl.models.autoencoder import Autoencoder
from aectl.models.classifier import Classifier
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE

GREY, COLOUR = (1, 8, 8), (3, 8, 8)
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])


def grey_levels(n=1, side=8):
    return np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_read_by_name_without_what_is_no_image(tmp_path):
    levels = grey_levels(3)
    for name, pixels in zip(("b.bmp", "a.png", "ç.gif"), levels, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not one either")
    (tmp_path / "folder.png").mkdir()
    images, names = eval_user_images.read_images(str(tmp_path), GREY)
    assert names == ["a.png", "b.bmp", "ç.gif"]
    assert torch.equal((255 * images[:, 0]).round().byte(), torch.from_numpy(levels[[1, 0, 2]]))
    one, names = eval_user_images.read_images(str(tmp_path / "a.png"), GREY, invert=True)
    assert names == ["a.png"]
    assert torch.equal(one, 1 - images[:1])


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_colours_become_the_models_channels(tmp_path, shape):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    images, _ = eval_user_images.read_images(str(tmp_path), shape)
    expected = [0.299] if shape == GREY else [1, 0, 0]
    assert torch.allclose(images[0].mean((1, 2)), torch.tensor(expected, dtype=torch.float32), atol=2e-3)


def test_shrinking_averages_instead_of_picking(tmp_path):
    board = 255 * (np.indices((32, 64)).sum(0) % 2).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    images, _ = eval_user_images.read_images(str(tmp_path), GREY)
    assert images.shape == (1, *GREY)
    assert (images - 0.5).abs().max() < 0.05


def test_transparent_is_white_and_a_camera_turns(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    images, _ = eval_user_images.read_images(str(tmp_path / "glass.png"), GREY)
    assert images.min() == 1
    upright = Image.fromarray(np.triu(np.full((8, 8), 255, np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    upright.save(tmp_path / "turned.png", exif=exif)
    images, _ = eval_user_images.read_images(str(tmp_path / "turned.png"), GREY)
    assert torch.equal(images[0, 0], torch.triu(torch.ones(8, 8)).rot90(-1))


def test_16_bits_and_floats_keep_their_levels(tmp_path):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray((65535 * ramp).astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "b.tiff")
    images, _ = eval_user_images.read_images(str(tmp_path), COLOUR)
    assert np.allclose(images.numpy(), ramp, atol=2e-5)
    Image.fromarray(255 * ramp).save(tmp_path / "c.tiff")
    with pytest.raises(DataError, match=r"c\.tiff .*floats in \[0, 1\].*set dataset.scale=255"):
        eval_user_images.read_images(str(tmp_path), COLOUR)


def test_arrays_are_taken_as_they_are(tmp_path):
    levels = grey_levels(5)
    np.save(tmp_path / "x.npy", levels)
    np.savez(tmp_path / "x.npz", images=levels[:, None] / 255)
    for file in ("x.npy", "x.npz"):
        images, names = eval_user_images.read_images(str(tmp_path / file), GREY)
        assert names == ["0", "1", "2", "3", "4"]
        assert np.allclose(images[:, 0].numpy(), levels / 255)
    with pytest.raises(DataError, match=r"\(1, 8, 8\).*model's are \(1, 9, 9\)"):
        eval_user_images.read_images(str(tmp_path / "x.npy"), (1, 9, 9))


def test_what_cannot_be_read_is_named(tmp_path, caplog):
    with pytest.raises(DataError, match="holds no image"):
        eval_user_images.read_images(str(tmp_path), GREY)
    with pytest.raises(DataError, match="nowhere does not exist"):
        eval_user_images.read_images(str(tmp_path / "nowhere"), GREY)
    Image.fromarray(grey_levels()[0]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    assert eval_user_images.read_images(str(tmp_path), GREY)[1] == ["a.png"]
    assert f"{tmp_path.name}: skipped unreadable {tmp_path.name}/broken.png" in caplog.text
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        eval_user_images.read_images(str(tmp_path / "broken.png"), GREY)


@pytest.mark.parametrize(("level", "mean", "inverted"), [(0.9, 0.13, True), (0.1, 0.8, True), (0.2, 0.13, False)])
def test_ink_on_paper_is_noticed(level, mean, inverted):
    assert eval_user_images.looks_inverted(torch.full((2, *GREY), level), mean) is inverted


def test_codes_reconstructions_and_errors_are_written(tmp_path):
    torch.manual_seed(0)
    model = VAE(GREY, 3, encoder, decoder).eval()
    images, names = torch.from_numpy(grey_levels(25)[:, None] / 255).float(), [f"olá, {i}" for i in range(25)]
    written = eval_user_images.write_image_results(model, images, names, tmp_path / "out")
    assert set(written) == {"codes.npz", "codes.csv", "reconstructions.npz", "reconstructions.png", "errors.csv"}
    assert all(path == tmp_path / "out" / name for name, path in written.items())
    with np.load(written["codes.npz"]) as arrays:
        assert np.array_equal(arrays["codes"], model.encode(images).numpy(force=True))
        assert arrays["names"].tolist() == names
        rows = table(written["codes.csv"])
        assert [row.pop("name") for row in rows] == names
        assert np.array_equal(np.float32([list(row.values()) for row in rows]), arrays["codes"])
    with np.load(written["reconstructions.npz"]) as arrays:
        errors = ((arrays["x"] - arrays["x_hat"]) ** 2).mean((1, 2, 3))
    rows = table(written["errors.csv"])
    assert np.allclose([float(row["mse"]) for row in rows], errors, rtol=1e-5)
    assert np.allclose([float(row["psnr"]) for row in rows], -10 * np.log10(errors), rtol=1e-5)
    # Random weights do not beat an even guess of each of 64 bits.
    assert all(float(row["log_likelihood_bound"]) < -0.9 * 64 * np.log(2) for row in rows)
    with Image.open(written["reconstructions.png"]) as sheet:
        assert np.asarray(sheet.convert("L")).std() > 5
    again = eval_user_images.write_image_results(model, images, names, tmp_path / "again")
    assert all(written[name].read_bytes() == path.read_bytes() for name, path in again.items() if path.suffix == ".csv")


def test_each_ability_has_its_files_and_columns(tmp_path):
    torch.manual_seed(0)
    images, names = torch.rand(4, *GREY, generator=torch.Generator().manual_seed(0)), list("abcd")
    plain = eval_user_images.write_image_results(
        Autoencoder(GREY, 2, encoder, decoder).eval(), images, names, tmp_path / "plain"
    )
    assert list(table(plain["errors.csv"])[0]) == ["name", "mse", "psnr"]
    classifier = Classifier(GREY, 5, 6, encoder).eval()
    written = eval_user_images.write_image_results(classifier, images, names, tmp_path / "classes")
    assert set(written) == {"codes.npz", "codes.csv", "errors.csv"}
    found = [int(row["class"]) for row in table(written["errors.csv"])]
    assert found == classifier.classify(images).argmax(1).tolist()
    with pytest.raises(ValueError, match="neither encode nor reconstruct"):
        eval_user_images.write_image_results(GAN(GREY, 2, decoder, encoder).eval(), images, names, tmp_path / "gan")
    assert not (tmp_path / "gan").exists()
