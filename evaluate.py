"""Evaluates a trained run again: results.json, the report, maybe the score maps.

python evaluate.py --workdir=runs/quickstart [--save_maps] [--dataset_root=MOVED]
"""

from absl import flags

from ast_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_DATASET_ROOT = flags.DEFINE_string(
    "dataset_root", None, "Where the data set lies now, if it was moved."
)
_SAVE_MAPS = flags.DEFINE_bool(
    "save_maps", False, "Writes every test image's score map as TIFF below DIR/maps."
)
flags.mark_flag_as_required("workdir")


def main() -> None:
    """Evaluates."""
    from ast_jax.evaluation.evaluate import evaluate
    from ast_jax.run import Run

    run = Run.open(_WORKDIR.value)
    config = run.config.copy_and_resolve_references()
    if _DATASET_ROOT.value is not None:
        config.dataset.root = _DATASET_ROOT.value
    evaluate(run, config, save_maps=_SAVE_MAPS.value)


if __name__ == "__main__":
    cli.run(main)
