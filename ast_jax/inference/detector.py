"""The detector: a trained run, loaded to score parts as they come.

Everything between a part's pixels and its score is one pure function, `function`: the
backbone, every seed's teacher and student, and the upsampling (docs/method.md "Score
and metrics"). It is what `predict` runs and what an export writes.
"""

import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Shaped
from ml_collections import ConfigDict
from PIL import Image

from ast_jax import backbones, scoring
from ast_jax.backbones import Backbone
from ast_jax.backbones.run_weights import with_weights
from ast_jax.config import uses_backbone
from ast_jax.data import depth
from ast_jax.data.decode import resize_image
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.normals import normals_picture
from ast_jax.data.part import Part, Sequences, pairs_of
from ast_jax.device_memory import memory_errors
from ast_jax.errors import UserError
from ast_jax.features import prefetch
from ast_jax.features.inputs import network_input
from ast_jax.inference import feedback, read_part
from ast_jax.inference.calibration import Calibration, read_calibration
from ast_jax.inference.colours import ColourScale
from ast_jax.inference.ensemble import Ensemble, decision
from ast_jax.inference.monitor import Monitor
from ast_jax.inference.notebook_card import html
from ast_jax.inference.pair import pair_scores, prepared, tiles
from ast_jax.inference.prediction import Prediction
from ast_jax.mode import Mode
from ast_jax.parallel import DATA_AXIS, data_mesh, replicated, split_batch
from ast_jax.precision import multiplied_at
from ast_jax.run import FULL_DEPTH, Run

# "image" [b,s,s,3] uint8 in modes rgb and rgb3d; "depth" [b,m,m,64] and "foreground"
# [b,m,m] float32 in modes 3d and rgb3d. s is the image size, m the map's side.
DetectorInputs = dict[str, Shaped[Array | np.ndarray, "b ..."]]
# (image, xyz); or a UserError, which is handed on in its place.
Given = tuple[read_part.Source | Image.Image | None, read_part.Source | None]
Prepared = tuple[Part, dict[str, np.ndarray]]
BATCH_SIZE = 8
_UNRELATED = 2.0
"""The score of two unrelated outputs of the variance 1 that the teacher learns."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """A category's trained networks and their calibration; `load` makes one.

    Threads may share one. Processes may not: a process that was forked after a load is
    refused. Pickled, as by multiprocessing's "spawn", it is the run's folder and the
    calibration, and the other process loads it from there.

    Attributes:
      category: its name.
      config: the run's.
      side: positions along each side of the feature map.
      backbone: None in mode `3d`.
      ensemble: the trained pairs, one a seed.
      calibration: None where no good images were held out of training.
      directory: the run's folder; None of a detector that `load` has not made, which
        cannot be pickled.
      bit_depth: how many bits of 16 the training images fill.
      exaggeration: of slopes, where depth is drawn as normals.
    """

    category: str
    config: ConfigDict
    side: int
    backbone: Backbone | None
    ensemble: Ensemble
    calibration: Calibration | None
    directory: Path | None = None
    bit_depth: int = FULL_DEPTH
    exaggeration: float = 1.0
    _lock: AbstractContextManager = dataclasses.field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        category: str | None = None,
        *,
        backbone_weights: str | Path | None = None,
    ) -> "Detector":
        """Opens a run, on whatever devices there are.

        Args:
          run_dir: the run's folder.
          category: may be left out where the run has one only.
          backbone_weights: the file, where neither it nor a copy is found, see
            `backbones.run_weights`.

        Raises:
          UserError: there is no such run or category, it was not evaluated yet, a
            checkpoint is missing or damaged, the backbone's weights cannot be had, or
            this process was forked after an earlier load.
        """
        _refuse_fork()
        run = Run.open(run_dir)
        category = run.category(category)
        config = run.config
        record = run.read_inputs(category, run.members(category)[0])
        calibration, scales = read_calibration(run, category)
        if calibration is not None:
            calibration = feedback.applied(run, category, calibration)
        backbone = None
        if uses_backbone(config):
            size = config.dataset.image_size
            section = with_weights(config.backbone, run, backbone_weights)
            taps = config.features.taps
            backbone = backbones.create(section, image_size=size, taps=taps)
            for member in run.members(category):
                run.check_inputs(category, member, {"backbone": backbone.fingerprint})
        ensemble = dataclasses.replace(Ensemble.load(run, category), scales=scales)
        if calibration is None:
            logging.warning(
                "%s: no good images were held out of training, so threshold, p_value "
                "and anomalous are None",
                category,
            )
        return cls(
            category,
            config,
            record["side"],
            backbone,
            ensemble,
            calibration,
            run.directory,
            run.reading(category).get("bit_depth", FULL_DEPTH),
            record.get("exaggeration", 1.0),
        )

    def with_alpha(self, alpha: float) -> "Detector":
        """The same detector at another rate of false alarms; trains nothing.

        A rate that the calibration's parts cannot decide at is said in a warning.

        Raises:
          UserError: alpha is not between 0 and 1, or there is no calibration.
        """
        if self.calibration is None:
            raise UserError(
                f"{self.category}: no good images were held out of training, so there "
                "is no alpha to change"
            )
        calibration = self.calibration.with_alpha(alpha)
        return dataclasses.replace(self, calibration=calibration)

    def monitor(self, path: Path | None = None) -> Monitor:
        """Watches whether the parts still look like those that were calibrated on.

        Feed it `own_scores` of every prediction, in order.

        Args:
          path: the state of an earlier one to go on from, if it is there.

        Raises:
          UserError: there is no calibration, or the state is damaged.
        """
        if self.calibration is None:
            raise UserError(
                f"{self.category}: no good images were held out of training, so there "
                "is nothing to compare new parts with"
            )
        if path is None:
            return Monitor(self.calibration)
        return Monitor.load(path, self.calibration)

    def __reduce__(self) -> tuple:
        """Pickles what `load` needs, and the calibration, which may be another."""
        if self.directory is None:
            raise UserError("this Detector has no run's folder, so it has no pickle")
        return _reloaded, (self.directory, self.category, self.calibration)

    @property
    def mode(self) -> Mode:
        """Which of a part's data the networks see."""
        return Mode(self.config.mode)

    @property
    def draws_normals(self) -> bool:
        """Whether depth goes through the backbone, as a picture of normals."""
        return self.mode.has_depth and self.config.depth.input == "normals"

    @property
    def variables(self) -> dict[str, Any]:
        """Every array that `function` needs: "backbone" (maybe None) and "pairs"."""
        return {
            "backbone": self.backbone and self.backbone.variables,
            "pairs": {
                seed: pair.variables for seed, pair in self.ensemble.pairs.items()
            },
        }

    def input_shapes(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """What `function` takes: `DetectorInputs` by shape and type.

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

    def function(
        self, variables: dict[str, Any], inputs: DetectorInputs
    ) -> dict[str, Float[Array, "b ..."]]:
        """From prepared pixels to scores: pure, and of any batch size.

        Args:
          variables: `variables`.
          inputs: shaped as `input_shapes` says; `prepare` makes one part's.

        Returns:
          "score" [b], the image score; "map" [b,8m,8m], the upsampled score map; and
          "maximum" [b], the map's, which above the pixel threshold marks a region. With
          cross calibration also each fold's own "score_by_fold" and "maximum_by_fold"
          [b,k].
        """
        with multiplied_at(self.config.train.precision):
            return self._score(variables, inputs)

    def _score(
        self, variables: dict[str, Any], inputs: DetectorInputs
    ) -> dict[str, Float[Array, "b ..."]]:
        def features(picture: str) -> Array:
            return self.backbone.apply(variables["backbone"], inputs[picture])

        rgb = features("image") if self.mode.has_colour else None
        of_depth = features("normals") if self.draws_normals else inputs.get("depth")
        arrays = [rgb, of_depth, inputs.get("foreground")]
        if self.config.dataset.feature_dtype == "float16":
            # As the feature cache rounds; XLA may leave out a cast to and fro.
            arrays = [
                a if a is None else lax.reduce_precision(a, 5, 10) for a in arrays
            ]
        by_seed = {}
        for seed, pair in self.ensemble.pairs.items():
            seen = network_input(
                *arrays,
                normaliser=pair.normaliser,
                binary_mask=self.config.train.mask == "binary",
            )
            by_seed[seed] = pair_scores(pair, variables["pairs"][seed], **seen)
        scores = self.ensemble.combined(by_seed, "student")
        reading = self.ensemble.reading
        fine = scoring.upsample(scores["map"], reading.smoothing)
        read = scores | reading.read(fine)
        how = decision(self.ensemble.image_score, masked=self.mode.has_depth)
        outputs = {"map": fine, "maximum": read["max"]}
        if "max_by_fold" in scores:
            return outputs | {
                "score": scores[how],
                "score_by_fold": scores[f"{how}_by_fold"],
                "maximum_by_fold": scores["max_by_fold"],
            }
        return outputs | {"score": read[how]}

    def prepare(self, part: Part) -> dict[str, np.ndarray]:
        """One decoded part as `function` takes it, without the batch axis."""
        prepared, size = {}, self.config.dataset.image_size
        options = self.depth_options
        if self.mode.has_colour:
            prepared["image"] = resize_image(part.image, size)
        if self.mode.has_depth:
            channels, weight = depth.preprocess_depth(
                part.z, self.side, options, name=part.id
            )
            prepared["foreground"] = weight
            if not self.draws_normals:
                prepared["depth"] = channels
        if self.draws_normals:
            prepared["normals"] = normals_picture(
                part.z, size, self.exaggeration, options, name=part.id
            )
        return prepared

    @property
    def depth_options(self) -> DepthOptions:
        """How the run's depth was read and preprocessed."""
        return DepthOptions.from_config(self.config)

    @functools.cached_property
    def colour_scale(self) -> ColourScale:
        """The colours of this category's heat maps.

        The darkest is no disagreement of teacher and student, half way is the pixel
        threshold, and without one what two unrelated outputs would score.
        """
        low, unrelated = (self._standardised(value) for value in (0.0, _UNRELATED))
        if self.calibration is None:
            return ColourScale(low, unrelated, calibrated=False)
        return ColourScale(low, self.calibration.pixel_threshold, calibrated=True)

    def _standardised(self, value: float) -> float:
        """A single pair's map value in the units of the ensemble's map."""
        scales = [scale["student"] for scale in self.ensemble.scales.values()]
        values = [(value - scale.map_mean) / scale.map_std for scale in scales]
        return float(np.mean(values)) if values else value

    def predict(
        self,
        image: read_part.Source | Image.Image | None = None,
        xyz: read_part.Source | None = None,
    ) -> Prediction:
        """Scores one part.

        Args:
          image: a file, a Pillow image, or an array [h,w], [h,w,3] or [h,w,4] of 8 or
            16 bits; of any size. Of 16 bits as many count as the training images fill.
          xyz: a point cloud of the same size: a file, or an array [h,w,3] or [h,w]
            (z) in metres (floats) or millimetres (integers), 0 or NaN where missing.
            Mode `rgb` does not look at it.

        Raises:
          UserError: what the run's mode needs is missing or cannot be used.
        """
        (result,) = self.predict_many([(image, xyz)], batch_size=1)
        if isinstance(result, UserError):
            raise result
        return result

    def predict_many(
        self,
        parts: Iterable[Given | UserError | read_part.Source | Image.Image],
        *,
        batch_size: int = BATCH_SIZE,
        live: bool = False,
    ) -> Iterator[Prediction | UserError]:
        """Scores a stream of parts, in their order; threads decode them ahead.

        Args:
          parts: (image, xyz) as `predict` takes them, or in modes rgb and 3d the one
            that is needed, consumed in a thread; a UserError stands for itself.
          batch_size: parts at a time; rounded up to a multiple of the devices.
          live: whether each part is answered without waiting for later ones; else
            batches are filled before they are computed, and the device works ahead.

        Returns:
          An iterator of each part's prediction, or the error that says what is wrong
          with it.

        Raises:
          UserError: `batch_size` is below 1, or this process was forked after a load.
        """
        _refuse_fork()
        return self._stream(parts, self._rounded_up(batch_size), live=live)

    def _stream(
        self, parts: Iterable[Any], count: int, *, live: bool
    ) -> Iterator[Prediction | UserError]:
        batches = prefetch.batches(self._attempt, parts, count, live=live)
        started = (
            (batch, self._start(batch, 1 if live and len(batch) == 1 else count))
            for batch in batches
        )
        if not live:
            # The device gets the next batch before the host waits for this one.
            pairs = itertools.pairwise(itertools.chain(started, [None]))
            started = (one for one, _ in pairs)
        for batch, outputs in started:
            yield from self._finished(batch, outputs)

    def score(
        self, images: Sequences | None = None, xyz: Sequences | None = None
    ) -> Float[np.ndarray, " n"]:
        """Returns the image score of each part; a higher one is more anomalous.

        Args:
          images: files, Pillow images or arrays, as `predict` takes one; an array
            [n,h,w,3] is n images.
          xyz: likewise the point clouds.

        Raises:
          UserError: a part cannot be scored; the line says which.
        """
        scores = []
        for row, result in enumerate(self.predict_many(pairs_of(images, xyz))):
            if isinstance(result, UserError):
                raise UserError(f"part {row}: {result}")
            scores.append(result.score)
        return np.array(scores, np.float32)

    def export(self, output: str | os.PathLike) -> dict[str, Any]:
        """Writes this detector as one file, see `interop.export`; returns its card."""
        # Interop is built on the detector.
        from ast_jax.interop.export import export

        return export(self, Path(output))

    def warm_up(self, batch_size: int = BATCH_SIZE, *, live: bool = False) -> None:
        """Compiles what `predict_many` with these arguments is going to run.

        Raises:
          UserError: as `predict_many`, or a device's memory does not suffice.
        """
        _refuse_fork()
        for count in {self._rounded_up(n) for n in (batch_size, *([1] * live))}:
            with memory_errors("scoring", count, self._mesh.size, trained=False):
                jax.block_until_ready(self._run(self._zeros(count)))

    def _rounded_up(self, batch_size: int) -> int:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1. Got {batch_size}.")
        devices = self._mesh.size
        return -(-batch_size // devices) * devices

    def _zeros(self, count: int) -> dict[str, np.ndarray]:
        shapes = self.input_shapes(count).items()
        return {name: np.zeros(array.shape, array.dtype) for name, array in shapes}

    def _attempt(
        self, one: Given | UserError | read_part.Source | Image.Image
    ) -> Prepared | UserError:
        if isinstance(one, UserError):
            return one
        if not isinstance(one, tuple):
            one = (one, None) if self.mode.has_colour else (None, one)
        try:
            part = read_part.decode(
                self.mode,
                *one,
                depth_options=self.depth_options,
                bit_depth=self.bit_depth,
            )
            return part, self.prepare(part)
        except UserError as error:
            return error

    def _start(
        self, batch: list[Prepared | UserError], at_least: int
    ) -> dict[str, Array] | None:
        """Starts scoring what is no error; outputs of `at_least` rows, or None."""
        prepared = [one[1] for one in batch if not isinstance(one, UserError)]
        if not prepared:
            return None
        inputs = self._zeros(self._rounded_up(at_least))
        for row, arrays in enumerate(prepared):
            for name, array in arrays.items():
                inputs[name][row] = array
        return self._run(inputs)

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, Array]:
        on_devices = jax.device_put(inputs, split_batch(self._mesh))
        batch = len(next(iter(inputs.values()))) // self._mesh.size
        with self._lock:  # threads that come together prepare and compile once
            variables = self._prepared_for(batch)
            compiled = self._compiled
        return compiled(variables, on_devices)

    def _prepared_for(self, batch: int) -> dict[str, Any]:
        """The variables for batches of a size on each device.

        Kernels that are transformed for the same tiles exist once, whatever the batch.
        """
        shapes = {
            seed: (batch, self.side, self.side, pair.teacher.channels)
            for seed, pair in self.ensemble.pairs.items()
        }
        key = tuple(tiles(self.ensemble.pairs[s], of) for s, of in shapes.items())
        if key not in self._prepared:
            pairs = {
                seed: prepared(
                    self.ensemble.pairs[seed],
                    self._variables["pairs"][seed],
                    shape,
                )
                for seed, shape in shapes.items()
            }
            self._prepared[key] = self._variables | {"pairs": self._shared(pairs)}
        return self._prepared[key]

    def _shared(self, pairs: dict[str, Any]) -> dict[str, Any]:
        """Equal kernels that were transformed before, in place of new ones."""
        return jax.tree_util.tree_map_with_path(
            lambda path, array: self._transformed.setdefault(
                (jax.tree_util.keystr(path), array.shape), array
            ),
            pairs,
        )

    def _finished(
        self, batch: list[Prepared | UserError], outputs: dict[str, Array] | None
    ) -> Iterator[Prediction | UserError]:
        arrays = jax.device_get(outputs)
        row = 0
        for one in batch:
            if isinstance(one, UserError):
                yield one
                continue
            score, part = float(arrays["score"][row]), one[0]
            if np.isfinite(score):
                names = ("score_by_fold", "maximum_by_fold")
                by_fold = {name: arrays[name][row] for name in names if name in arrays}
                yield Prediction(
                    *(score, arrays["map"][row], part, self.calibration),
                    html=functools.partial(html, scale=self.colour_scale),
                    **by_fold,
                )
            else:
                yield UserError(f"{part.id}: its score is {score}; check its data")
            row += 1

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return data_mesh()

    @functools.cached_property
    def _variables(self) -> dict[str, Any]:
        return jax.device_put(self.variables, replicated(self._mesh))

    @functools.cached_property
    def _prepared(self) -> dict[tuple, dict[str, Any]]:
        """By the tiles that a size of a batch is computed in."""
        return {}

    @functools.cached_property
    def _transformed(self) -> dict[tuple[str, tuple[int, ...]], Array]:
        """All arrays in `_prepared`, by where they belong and their shape."""
        return {}

    @functools.cached_property
    def _compiled(self):
        spread = PartitionSpec(DATA_AXIS)
        mapped = jax.shard_map(
            self.function,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), spread),
            out_specs=spread,
        )
        return jax.jit(mapped)


def _reloaded(
    directory: Path, category: str, calibration: Calibration | None
) -> Detector:
    detector = Detector.load(directory, category)
    return dataclasses.replace(detector, calibration=calibration)


@functools.cache
def _first_process() -> int:
    """The process that came here first; a fork of it still knows its number."""
    return os.getpid()


def _refuse_fork() -> None:
    """Raises a UserError where JAX, which runs threads, would hang."""
    if _first_process() != os.getpid():
        raise UserError(
            "a Detector was loaded before this process was forked, and JAX does not "
            "survive a fork; start workers with multiprocessing.get_context('spawn'), "
            "or load the first Detector in the workers"
        )
