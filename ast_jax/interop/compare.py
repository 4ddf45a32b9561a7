"""Scores a run's test images by its detector and by an exported file, and compares.

python -m ast_jax.interop.compare --workdir=DIR --category=NAME --file=FILE

Prints the largest difference of scores and the number of equal decisions. The exit
status is 1 if a score differs by more than 1e-4 of its size (0.02 if train.dtype is
bfloat16), or if any decision differs. FILE.onnx needs onnxruntime.
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
    """The differences between an exported file and its detector.

    Attributes:
      parts: the number of parts that both have scored.
      score: the largest difference of a score, relative to the detector's score or to
        1, whichever is larger.
      map: the largest difference of a map's value, relative to the map's largest.
      decisions: the number of different decisions; None without a threshold.
      tolerance: the largest allowed `score`; detector and file round differently.
    """

    parts: int
    score: float
    map: float
    decisions: int | None
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the file may replace the detector."""
        return self.score <= self.tolerance and not self.decisions

    def __str__(self) -> str:
        """Returns the comparison as one line."""
        decisions = "there is no threshold"
        if self.decisions is not None:
            decisions = f"{self.parts - self.decisions} of {self.parts} decisions equal"
        return (
            f"{self.parts} images: scores differ by at most {self.score:.2g} of "
            f"their size, maps by {self.map:.2g} of their largest value; {decisions}"
        )


def load_function(path: Path) -> Callable[[Arrays], Arrays]:
    """Reads the function in an exported file.

    Raises:
      UserError: the file cannot be read, or onnxruntime is not installed.
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
    except Exception as error:  # the readers raise many types
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
    """Scores every part by both, and compares."""
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
        # An ensemble's scores are standardised and may be close to 0.
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
    """Compares the detector and the file that the flags name."""
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
