"""Scores a run's test images by its detector and by an exported file, and compares.

python -m ast_jax.interop.compare --workdir=DIR --category=NAME --file=FILE

Prints how far the scores are apart and how many decisions are equal; exit status 1 if a
score differs by more than 1e-4 of its size (0.02 if train.dtype is bfloat16), or a
decision at all. To run FILE.onnx takes onnxruntime.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jaxtyping import Shaped
from tqdm import tqdm

from ast_jax import cli, data
from ast_jax.errors import UserError
from ast_jax.inference.detector import Detector

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.02}  # relative, of a score
Arrays = dict[str, Shaped[np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an exported file answers beside its detector.

    Attributes:
      parts: how many were scored by both.
      score: the largest difference of a score, relative to the detector's, or to 1
        where that is less.
      map: the largest difference of a map's value, relative to the map's largest.
      decisions: how many decisions differ; None without a threshold.
      tolerance: how large `score` may be; the detector and the file round differently.
    """

    parts: int
    score: float
    map: float
    decisions: int | None
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the file may stand in for the detector."""
        return self.score <= self.tolerance and not self.decisions

    def __str__(self) -> str:
        """One line for people."""
        decisions = "there is no threshold"
        if self.decisions is not None:
            decisions = f"{self.parts - self.decisions} of {self.parts} decisions equal"
        return (
            f"{self.parts} images: scores differ by at most {self.score:.2g} of "
            f"their size, maps by {self.map:.2g} of their largest value; {decisions}"
        )


def load_function(path: Path) -> Callable[[Arrays], Arrays]:
    """The function in an exported file.

    Raises:
      UserError: it cannot be read, or onnxruntime is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        return _onnx(content) if path.suffix == ".onnx" else _stablehlo(content)
    except ImportError as error:
        raise UserError(
            f"{path}: needs {error.name} (pip install 'ast-jax[onnx]')."
        ) from error
    except Exception as error:  # each reader raises whatever it meets
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: no exported detector ({reason[:120]}).") from error


def _stablehlo(content: bytes) -> Callable[[Arrays], Arrays]:
    call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda inputs: jax.device_get(call(inputs))


def _onnx(content: bytes) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        content, providers=onnxruntime.get_available_providers()
    )
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def compare(
    detector: Detector, function: Callable[[Arrays], Arrays], parts: Sequence
) -> Comparison:
    """Scores every part, decoded or of a data set, by both."""
    if not len(parts):
        raise UserError("the data set has no test images to compare on; add test/.")
    pixels = ((part.image, part.z) for part in parts)
    scores, maps, differing = [], [], 0
    predictions = tqdm(
        detector.predict_many(pixels), total=len(parts), unit=" images", disable=None
    )
    for part, prediction in zip(parts, predictions, strict=True):
        if isinstance(prediction, UserError):
            raise prediction
        arrays = detector.preprocess(part)
        inputs = {name: array[None] for name, array in arrays.items()}
        outputs = function(inputs)
        # An ensemble's scores are in deviations and may be about 0.
        scale = max(abs(prediction.score), 1.0)
        scores.append(abs(outputs["score"][0] - prediction.score) / scale)
        distance = np.abs(outputs["map"][0] - prediction.fine).max()
        maps.append(distance / np.abs(prediction.fine).max())
        if prediction.anomalous is not None:
            differing += bool(outputs["anomalous"][0]) != prediction.anomalous
    decided = detector.calibration is not None
    return Comparison(
        len(parts),
        float(np.max(scores)),
        float(np.max(maps)),
        differing if decided else None,
        TOLERANCES[detector.config.train.dtype],
    )


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run's folder.")
    flags.DEFINE_string("category", None, "Needed if the run has several.")
    flags.DEFINE_string("file", None, "What was exported of it.")
    flags.mark_flags_as_required(["workdir", "file"])


def main() -> None:
    """Compares what the flags name."""
    values = flags.FLAGS
    function = load_function(Path(values.file))
    detector = Detector.load(values.workdir, values.category)
    config = detector.config
    parts = data.load(
        config.dataset,
        detector.category,
        mode=config.mode,
        depth_options=detector.depth_options,
        bit_depth=detector.bit_depth,
    )["test"]
    comparison = compare(detector, function, parts)
    print(comparison)
    sys.exit(not comparison.agrees)


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
