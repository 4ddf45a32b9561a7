"""MVTec AD with the paper's settings.

python train.py --config=configs/mvtec_ad.py --workdir=runs/mvtec_ad \\
    --config.dataset.root=/data/mvtec_ad

In the paper: mean image AUROC 99.2 %, pixel AUROC 95.0 %.

Expected time on two CPU cores: about 6 minutes per training image, so a day for a
category of 240. It is an estimate from steps of 8 images (8 s for the teacher's, beside
other work, and 4.1 s for the student's). These networks need a GPU; there is no time on
one yet. `:small` is for a laptop.

`:plus` is AST+ (docs/ast_plus.md): smaller networks that see two depths of the backbone
and train in minutes on a laptop.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, check_variant, default, small


def get_config(variant: str = "") -> ConfigDict:
    """Returns RGB, a wider teacher, 240 epochs; variants: "small", "plus"."""
    check_variant(variant, "small", "plus")
    config = default()
    config.dataset.name = "mvtec_ad"
    config.mode = "rgb"
    config.teacher.hidden = 1024
    config.teacher.clamp = 3.0
    config.teacher.epochs = config.student.epochs = 240
    if variant == "small":
        config = small(config)
    elif variant == "plus":
        config.backbone.name = "auto"
        config = ast_plus(config)
    return config
