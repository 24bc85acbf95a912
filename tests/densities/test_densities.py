"""Densities of codes recover planted distributions, and are kept beside the run."""

import logging

import pytest
import torch

from aectl.config.schema import DENSITIES as NAMES
from aectl.densities import DENSITIES, CodeDensities, Density
from aectl.densities.density import MAX_DIRECTIONS
from aectl.models.gan import energy_distance
from aectl.rng import Rng


def fit(name, codes, components=1, seed=0):
    return Density.fit(DENSITIES[name], codes, Rng(seed), components)


def clusters(rng, n=4000):
    """Codes [n, 2]: a quarter about (0, 0), the others about (10, 4), with correlated spreads."""
    chosen = (rng.uniform(n) < 0.25)[:, None]
    noise = rng.normal(n, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    return torch.where(chosen, noise, torch.tensor([10.0, 4.0]) - noise)


def test_a_mixture_finds_the_clusters_and_a_gaussian_does_not():
    codes = clusters(Rng(0))
    drawn = fit("mixture", codes, 2).sample(20_000, Rng(1))
    first = drawn[:, 0] < 5
    assert float(first.float().mean()) == pytest.approx(0.25, abs=0.03)
    for part in (first, ~first):
        same = (codes[:, 0] < 5) == (part is first)
        torch.testing.assert_close(drawn[part].mean(0), codes[same].mean(0), atol=0.1, rtol=0)
        torch.testing.assert_close(drawn[part].T.cov(), codes[same].T.cov(), atol=0.1, rtol=0)
    between = (drawn[:, 0] > 4) & (drawn[:, 0] < 6)
    single = fit("gaussian", codes).sample(20_000, Rng(1))
    assert float(between.float().mean()) < 0.001
    assert float(((single[:, 0] > 4) & (single[:, 0] < 6)).float().mean()) > 0.05


def test_the_gaussian_of_wide_codes_has_their_mean_and_whole_covariance():
    code = MAX_DIRECTIONS + 16
    codes = Rng(0).normal(3000, code) @ (Rng(1).normal(code, code) / code**0.5) + 7
    drawn = fit("gaussian", codes).sample(100_000, Rng(2))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), codes.T.cov(), atol=0.1, rtol=0)


def test_temperature_scales_the_spread_about_each_mean():
    fitted = fit("mixture", clusters(Rng(0)), 2)
    warm, cold = fitted.sample(100, Rng(1), 1.0), fitted.sample(100, Rng(1), 0.0)
    assert len(cold.unique(dim=0)) == 2
    torch.testing.assert_close(fitted.sample(100, Rng(1), 0.5), (warm + cold) / 2, atol=1e-4, rtol=0)


def test_codes_that_are_all_equal_are_drawn_as_they_are():
    drawn = fit("mixture", torch.full((50, 3), 2.0), 4).sample(10, Rng(0))
    torch.testing.assert_close(drawn, torch.full((10, 3), 2.0), atol=0.01, rtol=0)


def test_the_schema_names_all_densities():
    assert set(NAMES) == set(DENSITIES)


def test_a_planted_mixture_is_recovered_where_one_gaussian_is_far_off():
    centres = 4 * Rng(5).normal(6, 8)

    def plant(rng, n):
        return centres[(6 * rng.uniform(n)).long()] + 0.5 * rng.normal(n, 8)

    codes, fresh = plant(Rng(0), 3000), plant(Rng(1), 3000)
    found, single = fit("mixture", codes, 6), fit("gaussian", codes)
    assert found.distribution.weights.tolist() == pytest.approx([1 / 6] * 6, abs=0.03)
    means = found.mean + found.scale * found.distribution.means @ found.axes[:, :8].T
    assert float(torch.cdist(centres, means).amin(1).max()) < 0.1
    assert abs(float(energy_distance(found.sample(3000, Rng(2)), fresh))) < 0.01
    assert float(energy_distance(single.sample(3000, Rng(2)), fresh)) > 0.3


@pytest.mark.parametrize("name", DENSITIES)
def test_dead_units_and_the_zeros_of_rectified_units_stay(name):
    codes = torch.cat([Rng(0).normal(600, 3), torch.full((600, 1), 3.0), Rng(1).normal(600, 2).relu()], 1)
    drawn = fit(name, codes, 3).sample(2000, Rng(0))
    torch.testing.assert_close(drawn[:, 3], torch.full((2000,), 3.0))
    assert float(drawn[:, 4:].min()) == 0
    assert float((drawn[:, 4:] == 0).float().mean()) > 0.1
    # The others have no bounds.
    assert float(drawn[:, :3].min()) < float(codes[:, :3].min())


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_is_fitted_once_for_the_same_weights_seed_and_settings(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    codes = clusters(Rng(0), 500)
    kept = CodeDensities(tmp_path / "densities", "weights 1")

    def draw(kept, components=2):
        return kept.fit_or_load(name, components, len(codes), lambda chosen: codes[chosen]).sample(50, Rng(3))

    first = draw(kept)
    (path,) = (tmp_path / "densities").iterdir()
    content, made = path.read_bytes(), path.stat().st_mtime_ns
    assert torch.equal(draw(kept), first)
    assert torch.equal(draw(CodeDensities(source="weights 1")), first)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, made)
    assert len(caplog.messages) == 2
    for other in (CodeDensities(kept.folder, "weights 2"), CodeDensities(kept.folder, "weights 1", seed=1)):
        draw(other)
    assert len(list(kept.folder.iterdir())) == 3
    # A damaged file is made again.
    path.write_bytes(content[:-8])
    assert torch.equal(draw(kept), first)
    assert path.read_bytes() == content


def test_what_cannot_be_fitted_is_refused():
    codes = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="components=6 needs at least 6 training images, but there are 5"):
        CodeDensities().fit_or_load("mixture", 6, 5, lambda chosen: codes)
    with pytest.raises(ValueError, match="NaN or infinite"):
        CodeDensities().fit_or_load("gaussian", None, 5, lambda chosen: codes / 0)
