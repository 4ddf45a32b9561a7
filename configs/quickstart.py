"""A first report in minutes: synthetic RGB+3D parts, real features, small networks.

python train.py --config=configs/quickstart.py --workdir=runs/quickstart

The features are EfficientNet-Lite0's, whose ImageNet weights pip has installed.
`:scattering` needs no weights. It uses 256 pixels and takes a minute: image AUROC 0.998
in mode rgb3d. Some defects show only in colour and some only in depth, so
--config.mode=rgb reaches 0.80 and --config.mode=3d 0.81.

The product is "flange"; "biscuit" and "bolt" exist too (--config.dataset.categories).
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, check_variant, default


def get_config(variant: str = "") -> ConfigDict:
    """Returns the synthetic data set; variants: "scattering" (no weights), "plus"."""
    check_variant(variant, "scattering", "plus")
    config = default()
    config.dataset.name = "synthetic"
    config.dataset.categories = ("flange",)
    config.dataset.image_size = 512
    config.backbone.name = "tf_efficientnet_lite0.package"
    config.teacher.hidden = 32
    config.teacher.epochs = 24
    config.student.width = 64
    config.student.epochs = 24
    config.calibration.fraction = 0.2
    config.calibration.alpha = 0.05
    if variant == "scattering":
        config.dataset.image_size = 256
        config.backbone.name = "scattering"
    elif variant == "plus":
        config = ast_plus(config)
    return config
