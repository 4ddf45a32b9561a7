"""Trains teacher and student on good parts, then evaluates; continues an existing run.

ast-train --config=quickstart --workdir=runs/quickstart

`python train.py` is the same in a checkout. With `variants` in the configuration
(ablation) each variant is a run of its own.
"""

from absl import flags

from ast_jax import cli, config_file
from ast_jax.commands.start import allow_interruption


def define_flags() -> None:
    """Defines the command's flags."""
    config_file.define_flag()
    cli.define_path("workdir", "The run's folder; made if it does not exist.")
    flags.DEFINE_bool("profile", False, "Writes a trace of some steps to DIR/profile.")
    flags.DEFINE_bool(
        "multihost", False, "Joins the other processes of the run before training."
    )
    flags.DEFINE_string("coordinator", None, "host:port of process 0.")
    flags.DEFINE_integer("process_count", None, "Processes of the run.")
    flags.DEFINE_integer("process_index", None, "This process, from 0.")
    cli.define_backbone_weights()
    flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Trains and evaluates."""
    from ast_jax import parallel
    from ast_jax.ablation import ablate
    from ast_jax.pipeline import train_and_evaluate

    allow_interruption()
    values = flags.FLAGS
    if values.multihost:
        parallel.connect(values.coordinator, values.process_count, values.process_index)
    config = cli.plain_config(values.config)
    if values.backbone_weights is not None:
        config.backbone.weights = str(values.backbone_weights)
    if "variants" in config:
        ablate(config, values.workdir)
    else:
        train_and_evaluate(config, values.workdir, profile=values.profile)
    parallel.barrier("the end")


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
