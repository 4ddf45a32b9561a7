"""The detector: a trained run, loaded to score new parts."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Float
from PIL import Image

from ast_jax.backbones.run_weights import check_backbone, open_backbone
from ast_jax.config import FULL_DEPTH
from ast_jax.data.part import Part, Sequences, join_parts
from ast_jax.device_memory import memory_errors
from ast_jax.errors import UserError
from ast_jax.features import prefetch
from ast_jax.inference import feedback, read_part
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.calibration_file import read_calibration
from ast_jax.inference.colours import ColourScale
from ast_jax.inference.ensemble import Ensemble
from ast_jax.inference.monitor import Monitor
from ast_jax.inference.notebook_view import html
from ast_jax.inference.prediction import Prediction
from ast_jax.inference.program import Program, refuse_fork
from ast_jax.inference.read_part import FileOrArray
from ast_jax.inference.score_function import ScoreFunction
from ast_jax.inference.traced_programs import TracedPrograms
from ast_jax.run import Run

# A part: (image, xyz), or the one of them that the mode needs.
ImageAndXyz = tuple[FileOrArray | Image.Image | None, FileOrArray | None]
AnyPart = ImageAndXyz | FileOrArray | Image.Image
Preprocessed = tuple[Part, dict[str, np.ndarray]]
BATCH_SIZE = 8
_UNRELATED = 2.0
"""The score of two unrelated outputs of variance 1, the variance of the teacher's."""


@dataclasses.dataclass(frozen=True)
class Detector(ScoreFunction):
    """A category's trained networks and their calibration; `load` makes one.

    Threads may share a detector. A process that was forked after a load cannot use it.
    A pickle, as of multiprocessing's "spawn", holds the run's folder and the
    calibration; the other process loads the networks from the folder.

    Attributes:
      calibration: None if no good images were held out of training.
      directory: the run's folder, which a pickle needs; None if `load` has not made
        the detector.
      bit_depth: how many of 16 bits the training images use.
      traced: programs that earlier processes traced; None if none are kept.
    """

    calibration: Calibration | None
    directory: Path | None = None
    bit_depth: int = FULL_DEPTH
    traced: TracedPrograms | None = None

    def __post_init__(self) -> None:
        """Adds the program that runs the networks; it compiles at its first batch."""
        object.__setattr__(self, "_program", Program(self, self.traced))

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        category: str | None = None,
        *,
        backbone_weights: str | Path | None = None,
        traced_in: Path | None = None,
    ) -> "Detector":
        """Opens a run; any number of devices will do.

        Args:
          run_dir: the run's folder.
          category: may be left out if the run has only one.
          backbone_weights: the file, if neither it nor its copy is found, see
            `backbones.run_weights`.
          traced_in: a folder in which traced programs are kept for the next process.

        Raises:
          UserError: there is no such run or category, it was not evaluated yet, a
            checkpoint is missing or damaged, the backbone's weights are not available,
            or this process was forked after an earlier load.
        """
        refuse_fork()
        run = Run.open(run_dir)
        category = run.category(category)
        record = run.read_record(category)
        calibration, scales = read_calibration(run, category)
        if calibration is None:
            logging.warning(
                "%s: no good images were held out of training, so threshold, p_value "
                "and anomalous are None",
                category,
            )
        else:
            calibration = feedback.apply(run, category, calibration)
        backbone = open_backbone(run.config, run, backbone_weights)
        check_backbone(run, category, backbone)
        traced = traced_in and TracedPrograms.of(run, category, traced_in)
        ensemble = Ensemble.load(run, category, traced)
        return cls(
            category,
            run.config,
            record["side"],
            backbone,
            dataclasses.replace(ensemble, scales=scales),
            calibration,
            directory=run.directory,
            bit_depth=run.picture_options(category).get("bit_depth", FULL_DEPTH),
            traced=traced,
            exaggeration=record.get("exaggeration", 1.0),
        )

    def with_alpha(self, alpha: float) -> "Detector":
        """Returns the same detector with another false-alarm rate; trains nothing.

        Warns if the calibration has too few parts for the rate.

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
        """Returns a monitor, which tests whether parts look like the calibrated ones.

        Feed it `own_scores` of every prediction, in order.

        Args:
          path: file with the state of an earlier monitor, if there is one.

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
        """Pickles the arguments of `load` and the calibration, which may differ."""
        if self.directory is None:
            raise UserError("this Detector has no run's folder, so it has no pickle")
        return _reload, (self.directory, self.category, self.calibration)

    @functools.cached_property
    def colour_scale(self) -> ColourScale:
        """The colours of this category's heat maps.

        The darkest colour means that teacher and student agree. The middle is the pixel
        threshold; without a threshold it is the score of two unrelated outputs.
        """
        low, unrelated = map(self.ensemble.standardise, (0.0, _UNRELATED))
        if self.calibration is None:
            return ColourScale(low, unrelated, calibrated=False)
        return ColourScale(low, self.calibration.pixel_threshold, calibrated=True)

    def predict(
        self,
        image: FileOrArray | Image.Image | None = None,
        xyz: FileOrArray | None = None,
    ) -> Prediction:
        """Scores one part.

        Args:
          image: a file, a Pillow image, or an array [h,w], [h,w,3] or [h,w,4] with 8 or
            16 bits; any size. Of 16 bits, those count that the training images use.
          xyz: a point cloud of the same size: a file, or an array [h,w,3] or [h,w]
            (z) in metres (floats) or millimetres (integers), 0 or NaN if missing.
            Mode `rgb` ignores it.

        Raises:
          UserError: an input that the run's mode needs is missing or unusable.
        """
        (result,) = self.predict_many([(image, xyz)], batch_size=1)
        if isinstance(result, UserError):
            raise result
        return result

    def predict_many(
        self,
        parts: Iterable[AnyPart | UserError],
        *,
        batch_size: int = BATCH_SIZE,
        live: bool = False,
    ) -> Iterator[Prediction | UserError]:
        """Scores a stream of parts in their order; threads decode them ahead.

        Args:
          parts: (image, xyz) as `predict` takes them, or in modes rgb and 3d only the
            one that is needed. A thread consumes them. A UserError is passed on.
          batch_size: parts at a time; rounded up to a multiple of the devices.
          live: answer each part without waiting for later ones. Otherwise batches are
            full, and the devices work ahead.

        Returns:
          An iterator of each part's prediction, or of the error that names the fault.

        Raises:
          UserError: `batch_size` is below 1, or this process was forked after a load.
        """
        refuse_fork()
        return self._stream(parts, self._program.round_up(batch_size), live=live)

    def _stream(
        self, parts: Iterable[Any], count: int, *, live: bool
    ) -> Iterator[Prediction | UserError]:
        batches = prefetch.batches(self._attempt, parts, count, live=live)
        started = (
            (batch, self._start(batch, 1 if live and len(batch) == 1 else count))
            for batch in batches
        )
        if not live:
            # The devices get the next batch before the host waits for this one.
            pairs = itertools.pairwise(itertools.chain(started, [None]))
            started = (one for one, _ in pairs)
        for batch, outputs in started:
            yield from self._finish(batch, outputs)

    def score(
        self, images: Sequences | None = None, xyz: Sequences | None = None
    ) -> Float[np.ndarray, " n"]:
        """Returns the image score of each part; a higher one is more anomalous.

        Args:
          images: files, Pillow images or arrays, as `predict` takes one; an array
            [n,h,w,3] is n images.
          xyz: the point clouds, likewise.

        Raises:
          UserError: a part cannot be scored; the line names it.
        """
        scores = []
        for row, result in enumerate(self.predict_many(join_parts(images, xyz))):
            if isinstance(result, UserError):
                raise UserError(f"part {row}: {result}")
            scores.append(result.score)
        return np.array(scores, np.float32)

    def export(self, output: str | os.PathLike) -> dict[str, Any]:
        """Writes this detector as one file, and its model card, which it returns."""
        # The room interop imports this module.
        from ast_jax.interop.export import export

        return export(self, Path(output))

    def warm_up(self, batch_size: int = BATCH_SIZE, *, live: bool = False) -> None:
        """Compiles the programs that `predict_many` needs with these arguments.

        Raises:
          UserError: as `predict_many`, or a device has too little memory.
        """
        refuse_fork()
        program = self._program
        for count in {program.round_up(n) for n in (batch_size, *([1] * live))}:
            with memory_errors("scoring", count, program.devices, trained=False):
                jax.block_until_ready(program.run(program.zeros(count)))

    def _attempt(self, part: AnyPart | UserError) -> Preprocessed | UserError:
        """Decodes and preprocesses a part; returns its error, if it has one."""
        if isinstance(part, UserError):
            return part
        if not isinstance(part, tuple):
            part = (part, None) if self.mode.has_colour else (None, part)
        try:
            decoded = read_part.decode(
                self.mode,
                *part,
                depth_options=self.depth_options,
                bit_depth=self.bit_depth,
            )
            return decoded, self.preprocess(decoded)
        except UserError as error:
            return error

    def _start(
        self, batch: list[Preprocessed | UserError], at_least: int
    ) -> dict[str, Array] | None:
        """Starts scoring the parts without an error; None if all have one.

        The outputs have at least `at_least` rows.
        """
        parts = [one[1] for one in batch if not isinstance(one, UserError)]
        if not parts:
            return None
        inputs = self._program.zeros(self._program.round_up(at_least))
        for row, arrays in enumerate(parts):
            for name, array in arrays.items():
                inputs[name][row] = array
        return self._program.run(inputs)

    def _finish(
        self, batch: list[Preprocessed | UserError], outputs: dict[str, Array] | None
    ) -> Iterator[Prediction | UserError]:
        """Waits for the outputs; yields a prediction or an error for each part."""
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


def _reload(
    directory: Path, category: str, calibration: Calibration | None
) -> Detector:
    detector = Detector.load(directory, category)
    return dataclasses.replace(detector, calibration=calibration)
