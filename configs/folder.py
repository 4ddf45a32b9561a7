"""Your own parts: a folder of good images, RGB without or with depth.

python train.py --config=configs/folder.py --workdir=runs/bolts \\
    --config.dataset.root=/data/bolts                   # --config.mode=rgb3d with depth

The folder has `good/`, and optionally `test/KIND/` and `masks/KIND/`; docs/data.md
describes the layouts. From 100 good images on, a fifth is held out to calibrate the
threshold at 5 % of false alarms (split). With 10 to 99 images, each of five folds is
left out in turn (cross): five pairs train, and all images calibrate. Fewer than 10
images are split again. docs/detector.md describes the guarantees. A rate of 1 %
(--config.calibration.alpha=0.01) needs 99 images with cross and 495 with split.

The method is AST+ (docs/ast_plus.md): small networks that see two depths of the
backbone. It needs few parts, and trains in minutes without a GPU. `:plus` is another
name of it. `:ast` has the networks of the authors' code. On two CPU cores they take
about 44 s per training image, estimated from a training of 3 epochs (58 s for 32
images, benchmarks/README.md); there is no time on a GPU. `:small` has narrow ones and
24 epochs: 3 s per image, measured on 96 images of MVTec 3D-AD. A run that was begun
before AST+ was the default continues with `:ast` or `:small`.

Without a GPU or TPU, backbone.name=auto is EfficientNet-Lite0, whose weights pip has
installed; otherwise it is the paper's B5, which is downloaded once.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, check_variant, default, small


def get_config(variant: str = "") -> ConfigDict:
    """Returns RGB, AST+, a fifth held out; variants: "ast", "small", "plus"."""
    check_variant(variant, "ast", "small", "plus")
    config = default()
    config.dataset.name = "folder"
    config.mode = "rgb"
    config.backbone.name = "auto"
    config.calibration.alpha = 0.05
    config.calibration.fraction = 0.2
    config.calibration.method = "auto"
    if variant in ("", "plus"):
        config = ast_plus(config)
    elif variant == "small":
        config = small(config)
    return config
