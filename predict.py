"""Scores images, and point clouds with them: decisions as JSON lines, and heat maps.

python predict.py --workdir=runs/x --category=bagel --input=FILE|FOLDER|- --output=DIR

Exit status: 0 all were scored, 3 some could not be (rows with "error"), 1 a mistake.
"""

import os
import sys
from pathlib import Path

from absl import flags

from ast_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_CATEGORY = flags.DEFINE_string("category", None, "Needed if the run has several.")
_INPUT = flags.DEFINE_string(
    "input", None, "A file, a folder, or - to read paths from standard input."
)
_XYZ = flags.DEFINE_string(
    "xyz", None, "The point cloud, or their folder; else xyz/ beside rgb/."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for rows and heat maps.")
flags.mark_flags_as_required(["workdir", "input", "output"])
_SOME_FAILED, _INTERRUPTED, _PIPE_CLOSED = 3, 130, 141


def main() -> None:
    """Scores what --input names."""
    from ast_jax.inference import predict_files
    from ast_jax.inference.detector import Detector

    detector = Detector.load(_WORKDIR.value, _CATEGORY.value)
    xyz, output = _XYZ.value and Path(_XYZ.value), Path(_OUTPUT.value)
    try:
        if _INPUT.value == "-":
            # Unbuffered: a row is with its reader at once, and never half of it.
            unbuffered = {"buffering": 0, "closefd": False}
            with (
                open(0, "rb", **unbuffered) as paths,
                open(1, "wb", **unbuffered) as rows,
            ):
                lines = map(os.fsdecode, paths)
                summary = predict_files.predict_stream(
                    detector, lines, xyz, output, rows
                )
        else:
            path = Path(_INPUT.value)
            summary = predict_files.predict_files(detector, path, xyz, output)
    except KeyboardInterrupt:
        cli.fail(f"interrupted; {output} holds what was scored.", _INTERRUPTED)
    except BrokenPipeError:
        cli.fail("standard output was closed by its reader.", _PIPE_CLOSED)
    if summary.failed:
        sys.exit(_SOME_FAILED)


if __name__ == "__main__":
    cli.run(main)
