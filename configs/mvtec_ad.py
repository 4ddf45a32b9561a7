"""MVTec AD with the paper's settings.

python train.py --config=configs/mvtec_ad.py --workdir=runs/mvtec_ad \\
    --config.dataset.root=/data/mvtec_ad

In the paper: mean image AUROC 99.2 %, pixel AUROC 95.0 %.

Expected time: on two CPU cores some 6 minutes a training image, reckoned from
measured steps (8 s the teacher's beside other work, 4.1 s the student's, of 8
images), so a day for a category of 240: these networks want a GPU, on which they were
not timed yet. `:small` is for a laptop.

`:plus` is AST+ (docs/ast_plus.md): smaller networks that see two depths of the
backbone, trained in minutes on a laptop.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, default


def get_config(variant: str = "") -> ConfigDict:
    """RGB alone, a wider teacher, 240 epochs; variants: "small", "plus"."""
    config = default()
    config.dataset.name = "mvtec_ad"
    config.mode = "rgb"
    config.teacher.hidden = 1024
    config.teacher.clamp = 3.0
    config.teacher.epochs = config.student.epochs = 240
    if variant == "small":
        config.backbone.name = "auto"
        config.teacher.hidden = 64
        config.student.width = 128
        config.teacher.epochs = config.student.epochs = 24
    elif variant == "plus":
        config.backbone.name = "auto"
        config = ast_plus(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; there are small and plus")
    return config
