"""MVTec 3D-AD with the settings of the authors' code.

python train.py --config=configs/mvtec_3d_ad.py --workdir=runs/mvtec_3d_ad \\
    --config.dataset.root=/data/mvtec_3d_ad

Mean image AUROC in the paper: RGB+3D 93.7 %, 3D 83.3 %, RGB 88.0 % (--config.mode).
`--config=configs/mvtec_3d_ad.py:paper` follows the paper's text where the authors' code
differs from it.

Expected time on two CPU cores: about 44 s per training image, so 3 hours for a category
of 240 and 32 hours for all 2656. It is an estimate from a training of 3 epochs (58 s
for 32 images, benchmarks/README.md); there is no time on a GPU. `:small` is for a
laptop: it trained on 96 images of cable_gland, mode rgb3d, features of
tf_efficientnet_lite0, in 4 minutes.

`:plus` is AST+ (docs/ast_plus.md): smaller networks that see two depths of the backbone
and train in minutes on a laptop.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, check_variant, default, small


def get_config(variant: str = "") -> ConfigDict:
    """Returns the defaults, made for this data; variants: "paper", "small", "plus"."""
    check_variant(variant, "paper", "small", "plus")
    config = default()
    if variant == "paper":
        config.student.negative_slope = 0.2
        config.train.mask = "binary"
        config.train.loss_average = "foreground"
    elif variant == "small":
        config = small(config)
    elif variant == "plus":
        config.backbone.name = "auto"
        config = ast_plus(config)
    return config
