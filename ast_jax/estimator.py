"""AST as a scikit-learn outlier detector: `fit(X)`, `score_samples`, `predict`.

    from ast_jax.estimator import ASTDetector

    detector = ASTDetector(epochs=24).fit(good_images)
    detector.predict(new_images)  # 1 good, -1 anomalous

scikit-learn's own checks (`check_estimator`) give every estimator tables of floats.
They pass, because a row of a table is an image: of `image_shape`, or one line of
pixels.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from PIL import Image
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from ast_jax import api

_LEAST = 3  # images: at least one is held out
_RANGE = (64.0, 191.0)  # grey levels of the smallest and the largest training value
_PARTS = str | os.PathLike | Image.Image


class ASTDetector(OutlierMixin, BaseEstimator):
    """A detector of anomalous images, learned from good ones.

    X is one of these:

    * files or Pillow images, in a sequence;
    * arrays [h,w] or [h,w,3], in a sequence or as one array [n,h,w] or [n,h,w,3];
    * a table [n_samples, n_features], one image a row.

    Arrays of 8 and 16 bits are images. Other numbers are converted: their range in
    training becomes the middle half of the 256 grey levels, so that values outside the
    range remain visible.

    Args:
      config: as in `ast_jax.fit`, like the next arguments.
      alpha: the false-alarm rate to guarantee; it sets `offset_`.
      epochs: of each network.
      seeds: several make an ensemble.
      image_size: in pixels, of the resized images.
      backbone: its name.
      weights: its file.
      image_shape: of the image in a row of a table, (h, w) or (h, w, 3); by default a
        row is one line of pixels.
      workdir: the run's folder; by default a temporary folder, which is deleted at the
        end of the program. A pickled detector needs it.

    Attributes:
      detector_: the `ast_jax.Detector`.
      offset_: minus its threshold; `decision_function` is `score_samples - offset_`.
      n_features_in_: of a table.
    """

    def __init__(
        self,
        *,
        config: ConfigDict | str | os.PathLike = "folder",
        alpha: float = 0.05,
        epochs: int | None = None,
        seeds: Sequence[int] | None = None,
        image_size: int | None = None,
        backbone: str | None = None,
        weights: str | os.PathLike | None = None,
        image_shape: tuple[int, ...] | None = None,
        workdir: str | os.PathLike | None = None,
    ):
        """Stores the arguments; `fit` checks them."""
        self.config = config
        self.alpha = alpha
        self.epochs = epochs
        self.seeds = seeds
        self.image_size = image_size
        self.backbone = backbone
        self.weights = weights
        self.image_shape = image_shape
        self.workdir = workdir

    def fit(self, X: Any, y: Any = None) -> "ASTDetector":  # noqa: N803
        """Learns from good images; ignores `y`."""
        images = self._images(X, first=True)
        self.detector_ = api.fit(
            images,
            config=self.config,
            mode="rgb",
            alpha=self.alpha,
            calibration="split",  # cross has no single offset_
            epochs=self.epochs,
            seeds=self.seeds,
            image_size=self.image_size,
            backbone=self.backbone,
            weights=self.weights,
            workdir=self.workdir,
        )
        if self.detector_.calibration is None:
            raise ValueError("calibration.fraction holds out no image: no threshold.")
        self.offset_ = -self.detector_.calibration.threshold
        return self

    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:  # noqa: N803
        """Returns minus the image scores: the lower, the more anomalous."""
        check_is_fitted(self)
        return -self.detector_.score(self._images(X, first=False)).astype(float)

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:  # noqa: N803
        """Returns each score's distance to the threshold; negative is anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:  # noqa: N803
        """Returns 1 for a good image, −1 for an anomalous one."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _images(self, X: Any, *, first: bool) -> Any:  # noqa: N803
        """Converts X for `ast_jax.fit` and `Detector.score`."""
        if _is_parts(X):
            return X
        X = np.asarray(X) if hasattr(X, "__array__") else X  # noqa: N806
        if np.ndim(X) in (3, 4):
            pixels = check_array(X, dtype=None, allow_nd=True, ensure_min_samples=1)
            if first and len(pixels) < _LEAST:
                raise ValueError(
                    f"Found {len(pixels)} images; at least {_LEAST} are needed."
                )
        else:
            least = _LEAST if first else 1
            table = validate_data(
                self, X, reset=first, dtype="numeric", ensure_min_samples=least
            )
            pixels = table.reshape(len(table), *(self.image_shape or (1, -1)))
        if pixels.dtype in (np.uint8, np.uint16):
            return pixels
        if first:
            self.range_ = float(pixels.min()), float(pixels.max())
        return _grey_levels(pixels.astype(float), *self.range_)


def _is_parts(X: Any) -> bool:  # noqa: N803
    """Whether X is a sequence of files, pictures, or arrays, of any sizes."""
    if not isinstance(X, list | tuple) or not len(X):
        return False
    return all(
        isinstance(one, _PARTS) or (isinstance(one, np.ndarray) and one.ndim > 1)
        for one in X
    )


def _grey_levels(
    values: Float[np.ndarray, "n *hwc"], low: float, high: float
) -> np.ndarray:
    """Converts numbers to 8-bit images."""
    first, last = _RANGE
    scale = (last - first) / ((high - low) or 1.0)
    return np.clip(np.rint((values - low) * scale + first), 0, 255).astype(np.uint8)
