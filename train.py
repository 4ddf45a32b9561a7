"""Trains teacher and student on good parts, then evaluates; resumes what stands.

python train.py --config=configs/quickstart.py --workdir=runs/quickstart

With `variants` in the configuration (configs/ablation.py) each is a run of its own.
"""

from absl import flags
from ml_collections import config_flags

from ast_jax import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="A file in configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, made if need be.")
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Writes a trace of some steps to DIR/profile."
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Joins the other processes of the run before training."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
_COUNT = flags.DEFINE_integer("process_count", None, "Processes of the run.")
_INDEX = flags.DEFINE_integer("process_index", None, "This process, from 0.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Trains and evaluates."""
    from ast_jax import parallel
    from ast_jax.ablation import ablate
    from ast_jax.evaluation.evaluate import evaluate
    from ast_jax.training.train import train

    if _MULTIHOST.value:
        parallel.connect(_COORDINATOR.value, _COUNT.value, _INDEX.value)
    config = cli.plain(_CONFIG.value)
    if "variants" in config:
        ablate(config, _WORKDIR.value)
    else:
        evaluate(train(config, _WORKDIR.value, profile=_PROFILE.value))
    parallel.barrier("the end")


if __name__ == "__main__":
    cli.run(main)
