"""Trains teacher and student on good parts, then evaluates; resumes what stands.

python train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from absl import flags
from ml_collections import config_flags

from ast_jax import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="A file in configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, made if need be.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Trains and evaluates."""
    from ast_jax.evaluation.evaluate import evaluate
    from ast_jax.training.train import train

    run = train(cli.plain(_CONFIG.value), _WORKDIR.value)
    evaluate(run)


if __name__ == "__main__":
    cli.run(main)
