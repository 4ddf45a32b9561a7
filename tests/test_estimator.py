"""The scikit-learn estimator: its contract, by scikit-learn's checks, and real images.

The checks fit about a hundred tables. They test only the contract, so a fast stand-in
replaces the networks.
"""

import types
from unittest import mock

import jaxtyping
import layouts
import numpy as np
import pytest
from PIL import Image
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny_runs import tiny

from ast_jax import api
from ast_jax.estimator import ASTDetector


class MeanImage:
    """Scores by the distance to the mean of the training images."""

    def __init__(self, images: np.ndarray):
        self.mean = np.mean(images, axis=0, dtype=float)
        threshold = float(np.quantile(self.score(images), 0.8))
        self.calibration = types.SimpleNamespace(threshold=threshold)

    def score(self, images: np.ndarray) -> np.ndarray:
        distances = np.abs(np.asarray(images, float) - self.mean)
        return distances.reshape(len(images), -1).mean(1).astype(np.float32)


@pytest.fixture
def unchecked_types():
    """scikit-learn wants arguments of every type stored, and checked only by `fit`."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@parametrize_with_checks([ASTDetector()])
def test_scikit_learns_checks(estimator, check, unchecked_types):
    with mock.patch.object(api, "fit", lambda images, **_: MeanImage(images)):
        check(estimator)


@pytest.fixture
def fitted():
    with mock.patch.object(api, "fit", lambda images, **_: MeanImage(images)):
        yield lambda images, **options: ASTDetector(**options).fit(images)


def test_a_row_of_a_table_is_an_image_of_its_shape(fitted):
    images = np.stack([layouts.picture(seed) for seed in range(6)]) / 255.0
    table = images.reshape(6, -1)
    detector = fitted(table, image_shape=images.shape[1:])
    assert detector.detector_.mean.shape == images.shape[1:]
    np.testing.assert_array_equal(
        detector.score_samples(table), fitted(images).score_samples(images)
    )


def test_a_value_beyond_the_range_of_training_still_shows(fitted):
    detector = fitted(np.linspace(0, 1, 30).reshape(10, 3))
    inside, outside, beyond = detector.score_samples([[1.0] * 3, [1.2] * 3, [1.4] * 3])
    assert inside > outside > beyond


def test_too_few_images_are_a_value_error(fitted):
    with pytest.raises(ValueError, match="Found 2 images"):
        fitted(np.zeros((2, 4, 4), np.uint8))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_real_images_in_every_form(tmp_path):
    """Arrays, pictures and files of the same images have the same scores."""
    images = np.stack([layouts.picture(seed) for seed in range(12)])
    defective = layouts.picture(60, defect=True)
    detector = ASTDetector(config=tiny(tmp_path, "folder", ""), alpha=0.3, epochs=20)
    assert detector.fit(images) is detector
    new = np.stack([*images[:2], defective])
    scores = detector.score_samples(new)
    assert scores[2] < min(scores[:2]) and detector.predict(new)[2] == -1
    files = [layouts.save(tmp_path / f"{i}.png", one) for i, one in enumerate(new)]
    np.testing.assert_allclose(detector.score_samples(files), scores, rtol=1e-5)
    pictures = [Image.fromarray(one) for one in new]
    np.testing.assert_allclose(detector.score_samples(pictures), scores, rtol=1e-5)
