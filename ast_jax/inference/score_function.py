"""The pure function from preprocessed parts to scores.

It contains the backbone, every seed's teacher and student, and the upsampling
(docs/method.md "Score and metrics"). A detector runs it, and an export writes it.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped
from ml_collections import ConfigDict

from ast_jax import scoring
from ast_jax.backbones import Backbone
from ast_jax.data import depth
from ast_jax.data.decode import resize_image
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.normals import normals_picture
from ast_jax.data.part import Part
from ast_jax.features.inputs import network_input
from ast_jax.inference.ensemble import Ensemble, decision
from ast_jax.inference.pair import pair_scores
from ast_jax.mode import Mode
from ast_jax.precision import multiply_at

# With colour: "image" [b,s,s,3] uint8. With depth: "foreground" [b,m,m] float32, and
# "depth" [b,m,m,64] float32 or "normals" [b,s,s,3] uint8. s is the image size, m the
# map's side.
DetectorInputs = dict[str, Shaped[Array | np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True)
class ScoreFunction:
    """A category's networks as one function of a batch of preprocessed parts.

    Attributes:
      category: its name.
      config: of the run.
      side: positions along each side of the feature map.
      backbone: None if depth alone is scored, without a picture of normals.
      ensemble: the trained pairs, one per seed.
      exaggeration: of slopes, if depth is drawn as normals.
    """

    category: str
    config: ConfigDict
    side: int
    backbone: Backbone | None
    ensemble: Ensemble
    exaggeration: float = dataclasses.field(default=1.0, kw_only=True)

    @property
    def mode(self) -> Mode:
        """Whether the networks see colour, depth, or both."""
        return Mode(self.config.mode)

    @property
    def draws_normals(self) -> bool:
        """Whether depth goes through the backbone, as a picture of normals."""
        return self.mode.has_depth and self.config.depth.input == "normals"

    @property
    def depth_options(self) -> DepthOptions:
        """The options by which the run reads and preprocesses depth."""
        return DepthOptions.from_config(self.config)

    @property
    def variables(self) -> dict[str, Any]:
        """All arrays that `function` needs: "backbone" (may be None) and "pairs"."""
        return {
            "backbone": self.backbone and self.backbone.variables,
            "pairs": {
                seed: pair.variables for seed, pair in self.ensemble.pairs.items()
            },
        }

    def input_shapes(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of `function`'s inputs.

        Args:
          batch: a number, or a symbolic dimension of `jax.export`.
        """
        size, side = self.config.dataset.image_size, self.side
        shapes = {}
        if self.mode.has_colour:
            shapes["image"] = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)
        if self.mode.has_depth:
            maps = (batch, side, side)
            if self.draws_normals:
                picture = (batch, size, size, 3)
                shapes["normals"] = jax.ShapeDtypeStruct(picture, np.uint8)
            else:
                channels = (*maps, depth.UNSHUFFLE**2)
                shapes["depth"] = jax.ShapeDtypeStruct(channels, np.float32)
            shapes["foreground"] = jax.ShapeDtypeStruct(maps, np.float32)
        return shapes

    def preprocess(self, part: Part) -> dict[str, np.ndarray]:
        """Returns one decoded part as `function` takes it, without the batch axis."""
        arrays, size = {}, self.config.dataset.image_size
        options = self.depth_options
        if self.mode.has_colour:
            arrays["image"] = resize_image(part.image, size)
        if self.mode.has_depth:
            channels, weight = depth.preprocess_depth(
                part.z, self.side, options, name=part.id
            )
            arrays["foreground"] = weight
            if not self.draws_normals:
                arrays["depth"] = channels
        if self.draws_normals:
            arrays["normals"] = normals_picture(
                part.z, size, self.exaggeration, options, name=part.id
            )
        return arrays

    def function(
        self, variables: dict[str, Any], inputs: DetectorInputs
    ) -> dict[str, Float[Array, "b ..."]]:
        """Scores a batch of any size; a pure function.

        Args:
          variables: the property of this name, or the same arrays on other devices.
          inputs: of the shapes that `input_shapes` returns; `preprocess` makes one
            part's.

        Returns:
          "score" [b], the image score; "map" [b,8m,8m], the upsampled score map; and
          "maximum" [b], the map's largest value. A maximum above the pixel threshold
          means that the map has a marked region. With cross calibration also each
          fold's own "score_by_fold" and "maximum_by_fold" [b,k].
        """
        with multiply_at(self.config.train.precision):
            return self._score(variables, inputs)

    def _score(
        self, variables: dict[str, Any], inputs: DetectorInputs
    ) -> dict[str, Float[Array, "b ..."]]:
        arrays = self._features(variables, inputs)
        by_seed = {}
        for seed, pair in self.ensemble.pairs.items():
            network_inputs = network_input(
                *arrays,
                normaliser=pair.normaliser,
                binary_mask=self.config.train.mask == "binary",
            )
            by_seed[seed] = pair_scores(
                pair, variables["pairs"][seed], **network_inputs
            )
        scores = self.ensemble.combine_network(by_seed, "student")
        reading = self.ensemble.reading
        fine = scoring.upsample(scores["map"], reading.smoothing)
        read = scores | reading.read(fine)
        name = decision(self.ensemble.image_score, masked=self.mode.has_depth)
        outputs = {"map": fine, "maximum": read["max"]}
        if "max_by_fold" in scores:
            return outputs | {
                "score": scores[name],
                "score_by_fold": scores[f"{name}_by_fold"],
                "maximum_by_fold": scores["max_by_fold"],
            }
        return outputs | {"score": read[name]}

    def _features(
        self, variables: dict[str, Any], inputs: DetectorInputs
    ) -> list[Array | None]:
        """Colour features, depth features and foreground; None for each absent one."""

        def features(picture: str) -> Array:
            return self.backbone.apply(variables["backbone"], inputs[picture])

        colour = features("image") if self.mode.has_colour else None
        depths = features("normals") if self.draws_normals else inputs.get("depth")
        arrays = [colour, depths, inputs.get("foreground")]
        if self.config.dataset.feature_dtype == "float16":
            # Rounds as the feature cache does; XLA may remove a cast there and back.
            arrays = [
                a if a is None else lax.reduce_precision(a, 5, 10) for a in arrays
            ]
        return arrays
