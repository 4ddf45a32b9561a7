"""Open categories: their parts by split, and the networks' inputs from them."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from ast_jax import data
from ast_jax.backbones import Backbone
from ast_jax.backbones.run_weights import open_backbone
from ast_jax.config import validate
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.normals import exaggeration
from ast_jax.data.part import Parts
from ast_jax.data.turned import TURNS, with_turns
from ast_jax.device_memory import memory_errors
from ast_jax.features.blocks import Block, channel_blocks
from ast_jax.features.extract import Features, extract, median_slopes
from ast_jax.features.inputs import Inputs
from ast_jax.files import expand_home
from ast_jax.mode import Mode
from ast_jax.parallel import run_main_first
from ast_jax.run import Run


@dataclasses.dataclass(frozen=True)
class Category:
    """One category's parts by split, and the backbone.

    The first call of `inputs` extracts a split's features, or finds them in the cache.
    """

    name: str
    parts: dict[str, Parts]
    backbone: Backbone | None
    config: ConfigDict
    _features: dict[str, Features] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def inputs(self, split: str) -> Inputs:
        """Network inputs of a split.

        Raises:
          UserError: a part is damaged or lacks an input that the mode needs, features
            are not finite or cannot be written, or a device has too little memory.
        """
        if split not in self._features:
            self._features[split] = self._extract(self.parts[split])
        return self._inputs(self._features[split])

    def inputs_to_learn(self, rows: Int[np.ndarray, " n"]) -> Inputs:
        """Network inputs of some training parts, as the networks learn them.

        Of parts that lie in any direction the turned ones follow. Those that a fold
        leaves out are not among `rows`, so no turn of them is learned either.

        Raises:
          UserError: as `inputs`.
        """
        if not self.config.dataset.any_direction:
            return self.inputs("train").select(rows)
        count = len(self.parts["train"])
        every_turn = np.concatenate([rows + turns * count for turns in range(TURNS)])
        return self._inputs(self._turned_features).select(every_turn)

    @functools.cached_property
    def _turned_features(self) -> Features:
        return self._extract(with_turns(self.parts["train"]))

    def _inputs(self, features: Features) -> Inputs:
        binary_mask = self.config.train.mask == "binary"
        return Inputs.of(features, binary_mask=binary_mask, blocks=self.blocks)

    def _extract(self, parts: Parts) -> Features:
        config = self.config
        batch_size = config.train.batch_size
        with memory_errors(f"{self.name}: extracting features", batch_size):
            return extract(
                parts,
                mode=config.mode,
                image_size=config.dataset.image_size,
                backbone=self.backbone,
                cache_dir=self._cache_dir,
                depth_options=DepthOptions.from_config(config),
                exaggeration=self.exaggeration,
                batch_size=batch_size,
                storage_dtype=config.dataset.feature_dtype,
                devices=jax.local_devices(),
            )

    @property
    def _cache_dir(self) -> Path:
        return expand_home(self.config.dataset.data_dir) / "features"

    @functools.cached_property
    def exaggeration(self) -> float | None:
        """The exaggeration of slopes, from the good training parts.

        None if depth is not drawn as normals.
        """
        config = self.config
        if not (Mode(config.mode).has_depth and config.depth.input == "normals"):
            return None
        options = DepthOptions.from_config(config)
        slopes = median_slopes(
            self.parts["train"], cache_dir=self._cache_dir, depth_options=options
        )
        return exaggeration(slopes.tolist())

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the channels of x."""
        return channel_blocks(self.config, self.backbone)


def open_categories(config: ConfigDict, run: Run | None = None) -> list[Category]:
    """Opens the configured data and the backbone; writes nothing to a run.

    Args:
      config: the configuration.
      run: a run whose training has begun; it has recorded how pictures are read.

    Raises:
      UserError: the configuration, the data set or the backbone's weights have a fault.
    """
    validate(config)
    # Before the backbone, because its weights may have to be fetched.
    names = data.categories(config.dataset, run.categories() if run else ())
    backbone = open_backbone(config, run)
    options = {"mode": config.mode, "depth_options": DepthOptions.from_config(config)}

    def open_one(name: str) -> Category:
        recorded = run.picture_options(name) if run else {}
        parts = data.load(config.dataset, name, **recorded, **options)
        return Category(name, parts, backbone, config)

    # The main process prepares the data in a shared folder; the others find them there.
    return run_main_first(lambda: [open_one(name) for name in names])
