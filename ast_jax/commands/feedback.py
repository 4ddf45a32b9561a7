"""Answers predictions: confirmed good parts join the calibration, without training.

ast-feedback --workdir=runs/x --category=bagel --rows=OUT/predictions.jsonl \\
    --good=a.png,b.png --defective=c.png

Prints one JSON line about the new calibration and the recall on confirmed defects.
"""

import json

from absl import flags

from ast_jax import cli
from ast_jax.commands.start import allow_interruption


def define_flags() -> None:
    """Defines the command's flags."""
    cli.define_path("workdir", "The run's folder.")
    flags.DEFINE_string("category", None, "Needed if the run has several.")
    cli.define_path("rows", "predictions.jsonl of the prediction.")
    flags.DEFINE_list("good", [], "Paths of good parts, as in the rows.")
    flags.DEFINE_list("defective", [], "Paths of parts that are defective.")
    flags.mark_flags_as_required(["workdir", "rows"])


def main() -> None:
    """Writes the answers."""
    from ast_jax.errors import UserError
    from ast_jax.inference.feedback import answer
    from ast_jax.run import Run

    allow_interruption()
    values = flags.FLAGS
    run = Run.open(values.workdir)
    category = run.category(values.category)
    if not values.good and not values.defective:
        raise UserError("give --good or --defective: paths as they stand in --rows")
    result = answer(run, category, values.rows, values.good, values.defective)
    calibration = result.calibration
    shares = {"recall": result.recall, "false_alarms": result.false_alarms}
    tree = {
        "good": result.good,
        "calibrated_on": len(calibration.scores),
        "threshold": calibration.threshold,
        "attainable": calibration.attainable,
        "guaranteed": calibration.guaranteed,
        **{
            name: share
            and {
                "value": share.value,
                "count": share.count,
                "total": share.total,
                "interval": share.interval,
            }
            for name, share in shares.items()
        },
    }
    print(json.dumps(tree))


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
