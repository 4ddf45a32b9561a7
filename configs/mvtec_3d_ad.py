"""MVTec 3D-AD with the settings of the authors' code.

python train.py --config=configs/mvtec_3d_ad.py --workdir=runs/mvtec_3d_ad \\
    --config.dataset.root=/data/mvtec_3d_ad

Mean image AUROC in the paper: RGB+3D 93.7 %, 3D 83.3 %, RGB 88.0 % (--config.mode).
`--config=configs/mvtec_3d_ad.py:paper` takes the paper's text where it differs from the
authors' code.

Expected time: on two CPU cores some 44 s a training image, so 3 hours a category of
240 and 32 hours for all 2656, reckoned from a training of 3 epochs (58 s for 32 images,
benchmarks/README.md); not timed on a GPU. `:small` is for a laptop: there it trained on
96 images of cable_gland, mode rgb3d, features of tf_efficientnet_lite0, in 4 minutes.

`:plus` is AST+ (docs/ast_plus.md): smaller networks that see two depths of the
backbone, trained in minutes on a laptop.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, default


def get_config(variant: str = "") -> ConfigDict:
    """The defaults, which are this benchmark's; variants: "paper", "small", "plus"."""
    config = default()
    if variant == "paper":
        config.student.negative_slope = 0.2
        config.train.mask = "binary"
        config.train.loss_average = "foreground"
    elif variant == "small":
        config.backbone.name = "auto"
        config.student.width = 128
        config.teacher.epochs = config.student.epochs = 24
    elif variant == "plus":
        config.backbone.name = "auto"
        config = ast_plus(config)
    elif variant:
        raise ValueError(
            f"unknown variant {variant!r}; there are paper, small and plus"
        )
    return config
