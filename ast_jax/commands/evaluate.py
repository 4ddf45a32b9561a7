"""Evaluates a trained run again: results.json, the report, and score maps on request.

ast-evaluate --workdir=runs/quickstart [--save_maps] [--dataset_root=MOVED]
    [--recalibrate] [--backbone_weights=FILE]

`python evaluate.py` is the same in a checkout.
"""

from absl import flags

from ast_jax import cli
from ast_jax.commands.start import allow_interruption


def define_flags() -> None:
    """Defines the command's flags."""
    cli.define_path("workdir", "The run's folder.")
    cli.define_path("dataset_root", "The data set's new folder, if it was moved.")
    flags.DEFINE_bool(
        "save_maps",
        False,
        "Writes every test image's score map as TIFF below DIR/maps.",
    )
    flags.DEFINE_bool(
        "recalibrate",
        False,
        "Takes a new threshold from the good images as they are now.",
    )
    cli.define_backbone_weights()
    flags.mark_flag_as_required("workdir")


def main() -> None:
    """Evaluates."""
    from ast_jax.errors import UserError
    from ast_jax.files import expand_home
    from ast_jax.pipeline import evaluate
    from ast_jax.run import Run

    allow_interruption()
    values = flags.FLAGS
    run = Run.open(values.workdir)
    config = run.config.copy_and_resolve_references()
    if values.dataset_root is not None:
        config.dataset.root = str(values.dataset_root)
    elif (root := config.dataset.root) and not expand_home(root).exists():
        raise UserError(
            f"{root}: the run's data are not there any more; give their new place with "
            "--dataset_root=FOLDER"
        )
    if values.backbone_weights is not None:
        config.backbone.weights = str(values.backbone_weights)
    evaluate(run, config, save_maps=values.save_maps, recalibrate=values.recalibrate)


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
