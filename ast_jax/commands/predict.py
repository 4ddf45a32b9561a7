"""Scores images, point clouds, or both: decisions as JSON lines, and heat maps.

ast-predict --workdir=runs/x --category=bagel --input=FILE|FOLDER|- --output=DIR

`python predict.py` is the same in a checkout. Exit status: 0 all parts were scored, 3
some could not be scored (rows with "error"), 1 a mistake.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from ast_jax import cli
from ast_jax.commands.start import allow_interruption

if TYPE_CHECKING:  # a command's flags need no JAX
    from ast_jax.inference.detector import Detector
    from ast_jax.inference.monitor_file import MonitorFile
    from ast_jax.inference.predict_files import Summary

_SOME_FAILED, _INTERRUPTED, _PIPE_CLOSED = 3, 130, 141


def define_flags() -> None:
    """Defines the command's flags."""
    cli.define_path("workdir", "The run's folder.")
    flags.DEFINE_string("category", None, "Needed if the run has several.")
    cli.define_path(
        "input", "A file, a folder, or - to read paths from standard input."
    )
    cli.define_path("xyz", "Point cloud or folder; by default xyz/ beside rgb/.")
    cli.define_path("output", "Folder for rows and heat maps.")
    cli.define_backbone_weights()
    flags.DEFINE_float(
        "alpha", None, "A rate of false alarms instead of calibration.alpha."
    )
    flags.DEFINE_bool(
        "monitor", False, "Tests whether parts still look like the calibrated ones."
    )
    flags.mark_flags_as_required(["workdir", "input", "output"])


def main() -> None:
    """Scores the parts of --input."""
    from ast_jax.inference.detector import Detector

    allow_interruption()
    values = flags.FLAGS
    detector = Detector.load(
        values.workdir,
        values.category,
        backbone_weights=values.backbone_weights,
        traced_in=cli.traced_folder(),
    )
    if values.alpha is not None:
        detector = detector.with_alpha(values.alpha)
    output = values.output
    with contextlib.ExitStack() as watching:
        monitor = None
        if values.monitor:
            monitor = watching.enter_context(_watch(detector, output))
        summary = _predict(detector, output, monitor)
    if summary.failed:
        sys.exit(_SOME_FAILED)


@contextlib.contextmanager
def _watch(detector: "Detector", output: Path) -> Iterator["MonitorFile"]:
    """Opens the run's monitor; at the end draws its course as OUTPUT/monitor.svg."""
    from ast_jax.files import write_text
    from ast_jax.inference import monitor_file
    from ast_jax.inference.monitor import ALARM
    from ast_jax.report.plots import monitor_course

    with monitor_file.open_monitor(detector) as monitor:
        try:
            yield monitor
        finally:
            course = monitor_course(monitor.monitor.course, ALARM)
            write_text(output / "monitor.svg", course)


def _predict(
    detector: "Detector",
    output: Path,
    monitor: "MonitorFile | None",
) -> "Summary":
    """Scores the parts of --input; ends the process if it is interrupted."""
    from ast_jax.inference import path_list, predict_files

    values = flags.FLAGS
    path, xyz = values.input, values.xyz
    try:
        if path == Path("-"):
            # Unbuffered, so that the reader gets each row at once and whole.
            unbuffered = {"buffering": 0, "closefd": False}
            with (
                open(0, "rb", **unbuffered) as paths,
                open(1, "wb", **unbuffered) as rows,
            ):
                lines = path_list.path_lines(paths.read)
                return predict_files.predict_stream(
                    detector, lines, xyz, output, rows, monitor
                )
        else:
            return predict_files.predict_files(detector, path, xyz, output, monitor)
    except KeyboardInterrupt:
        cli.fail(f"interrupted; {output} holds what was scored.", _INTERRUPTED)
    except BrokenPipeError:
        cli.fail("standard output was closed by its reader.", _PIPE_CLOSED)
    raise AssertionError("unreachable")


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
