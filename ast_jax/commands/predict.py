"""Scores images, and point clouds with them: decisions as JSON lines, and heat maps.

ast-predict --workdir=runs/x --category=bagel --input=FILE|FOLDER|- --output=DIR

`python predict.py` is the same in a checkout. Exit status: 0 all were scored, 3 some
could not be (rows with "error"), 1 a mistake.
"""

import sys
from pathlib import Path

from absl import flags

from ast_jax import cli
from ast_jax.commands.start import interruptible

_SOME_FAILED, _INTERRUPTED, _PIPE_CLOSED = 3, 130, 141


def define_flags() -> None:
    """Defines the command's flags."""
    cli.define_path("workdir", "The run's folder.")
    flags.DEFINE_string("category", None, "Needed if the run has several.")
    cli.define_path(
        "input", "A file, a folder, or - to read paths from standard input."
    )
    cli.define_path("xyz", "The point cloud, or their folder; else xyz/ beside rgb/.")
    cli.define_path("output", "Folder for rows and heat maps.")
    cli.define_backbone_weights()
    flags.mark_flags_as_required(["workdir", "input", "output"])


def main() -> None:
    """Scores what --input names."""
    from ast_jax.inference import path_list, predict_files
    from ast_jax.inference.detector import Detector

    interruptible()
    values = flags.FLAGS
    detector = Detector.load(
        values.workdir, values.category, backbone_weights=values.backbone_weights
    )
    path, xyz, output = values.input, values.xyz, values.output
    try:
        if path == Path("-"):
            # Unbuffered: a row is with its reader at once, and never half of it.
            unbuffered = {"buffering": 0, "closefd": False}
            with (
                open(0, "rb", **unbuffered) as paths,
                open(1, "wb", **unbuffered) as rows,
            ):
                lines = path_list.path_lines(paths.read)
                summary = predict_files.predict_stream(
                    detector, lines, xyz, output, rows
                )
        else:
            summary = predict_files.predict_files(detector, path, xyz, output)
    except KeyboardInterrupt:
        cli.fail(f"interrupted; {output} holds what was scored.", _INTERRUPTED)
    except BrokenPipeError:
        cli.fail("standard output was closed by its reader.", _PIPE_CLOSED)
    if summary.failed:
        sys.exit(_SOME_FAILED)


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
