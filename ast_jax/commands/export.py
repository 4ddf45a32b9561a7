"""Writes a detector as one StableHLO or ONNX file, and its model card.

ast-export --workdir=DIR --category=NAME --output=FILE

`python -m ast_jax.interop.export` is the same. docs/interop.md shows the file in use.
"""

from absl import flags, logging

from ast_jax import cli
from ast_jax.commands.start import allow_interruption


def define_flags() -> None:
    """Defines the command's flags."""
    cli.define_path("workdir", "The run's folder.")
    flags.DEFINE_string("category", None, "Needed if the run has several.")
    cli.define_path("output", "The file; ONNX if it ends in .onnx.")
    cli.define_backbone_weights()
    flags.mark_flags_as_required(["workdir", "output"])


def main() -> None:
    """Exports the detector that the flags name."""
    from ast_jax.inference.detector import Detector
    from ast_jax.interop.export import export

    allow_interruption()
    values = flags.FLAGS
    detector = Detector.load(
        values.workdir, values.category, backbone_weights=values.backbone_weights
    )
    written = export(detector, values.output)
    size = values.output.stat().st_size
    logging.info(
        "%s: %s, %.1f MB; %s.json says how to use it.",
        *(values.output, written["kind"], size / 1e6, values.output),
    )


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
