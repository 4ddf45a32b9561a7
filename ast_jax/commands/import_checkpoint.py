"""Makes a run from the authors' PyTorch weights.

ast-import --teacher=T.pth --student=S.pth --config=mvtec_3d_ad --workdir=DIR \\
    --category=NAME --config.backbone.padding=efficientnet_pytorch_0.7.1 \\
    --config.dataset.root=/data/mvtec_3d_ad

`python -m ast_jax.interop.official_checkpoint` is the same. Its docstring and
docs/interop.md explain the run.
"""

from absl import flags

from ast_jax import cli, config_file
from ast_jax.commands.start import allow_interruption


def define_flags() -> None:
    """Defines the command's flags."""
    config_file.define_flag()
    cli.define_path("teacher", "The teacher's state dict, a .pth file.")
    cli.define_path("student", "The student's state dict, a .pth file.")
    cli.define_path("workdir", "The run's folder; made if it does not exist.")
    flags.DEFINE_string("category", None, "The category that the pair has learned.")
    cli.define_backbone_weights()
    flags.mark_flags_as_required(
        ["config", "teacher", "student", "workdir", "category"]
    )


def main() -> None:
    """Imports the pair that the flags name."""
    from ast_jax.interop.official_checkpoint import import_pair

    allow_interruption()
    values = flags.FLAGS
    files = {"teacher": values.teacher, "student": values.student}
    config = cli.plain_config(values.config)
    if values.backbone_weights is not None:
        config.backbone.weights = str(values.backbone_weights)
    import_pair(config, values.workdir, values.category, files)


def run() -> None:
    """Runs the command."""
    cli.run(main, define_flags)
