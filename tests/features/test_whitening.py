"""Whitening makes good parts' features uncorrelated, and can be undone."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from ast_jax.errors import UserError
from ast_jax.features.whitening import BlockWhitening, Whitening, fit_whitening


def correlated_rows(n: int, c: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(c, c)))[0] * np.geomspace(1, 6, c)
    return (rng.normal(size=(n, c)) @ mixing.T + 50).astype(np.float32)


def fitted(rows: np.ndarray, block: int = 7) -> Whitening:
    return fit_whitening(
        lambda: (rows[first : first + block] for first in range(0, len(rows), block))
    )


def test_whitened_rows_are_uncorrelated_and_of_unit_variance():
    rows = correlated_rows(20_000)
    white = fitted(rows, block=999).forward(rows)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=0.02)


def test_the_inverse_gives_the_features_back():
    rows = correlated_rows(500)
    whitening = fitted(rows)
    np.testing.assert_allclose(whitening.inverse(whitening.forward(rows)), rows, 1e-5)


def test_few_rows_are_shrunk_as_scikit_learn_shrinks_them():
    """With fewer rows than channels the covariance has no inverse."""
    rows = correlated_rows(9).astype(np.float64)
    standard = (rows - rows.mean(0)) / rows.std(0)
    expected, share = ledoit_wolf(standard, assume_centered=True)
    assert 0 < share < 1
    whitening = fitted(rows, block=4)
    of_standard = whitening.inverse_matrix / rows.std(0)
    np.testing.assert_allclose(of_standard.T @ of_standard, expected, atol=1e-5)


def test_a_channel_that_never_changes_stays_finite_and_moves_when_it_does():
    rows = correlated_rows(100)
    rows[:, 3] = 2.0
    whitening = fitted(rows)
    white = whitening.forward(rows)
    assert np.isfinite(white).all()
    rows[:, 3] += 1.0
    assert np.abs(whitening.forward(rows) - white).max() > 0.5


def test_maps_of_jax_and_of_numpy_are_whitened_alike():
    rows = correlated_rows(64)
    whitening = fitted(rows)
    maps = rows.reshape(2, 4, 8, 12)
    np.testing.assert_allclose(
        whitening.forward(jnp.asarray(maps)), whitening.forward(maps), atol=2e-3
    )


def test_blocks_are_whitened_apart_and_come_back_from_their_file(tmp_path):
    rows = correlated_rows(300)
    both = BlockWhitening((fitted(rows[:, :5]), fitted(rows[:, 5:])))
    both.save(tmp_path / "whitening.npz")
    loaded = BlockWhitening.load(tmp_path / "whitening.npz")
    white = loaded.forward(rows)
    np.testing.assert_array_equal(white[:, :5], both.blocks[0].forward(rows[:, :5]))
    np.testing.assert_array_equal(white[:, 5:], both.blocks[1].forward(rows[:, 5:]))
    np.testing.assert_allclose(loaded.inverse(white), rows, rtol=1e-4)
    with pytest.raises(UserError, match=r"none\.npz: missing or damaged"):
        BlockWhitening.load(tmp_path / "none.npz")


def test_no_rows_cannot_be_whitened():
    with pytest.raises(ValueError, match="at least one row"):
        fit_whitening(lambda: [])
