"""Your own parts: a folder of good images, RGB alone or with depth.

python train.py --config=configs/folder.py --workdir=runs/bolts \\
    --config.dataset.root=/data/bolts                   # --config.mode=rgb3d with depth

The folder holds `good/`, and maybe `test/KIND/` and `masks/KIND/`; docs/data.md has the
layouts. With 100 good images and more a fifth is held out to calibrate the threshold at
5 % of false alarms. With fewer each of five folds is left out in turn (cross), so that
five pairs train and all images calibrate; docs/detector.md says what either guarantees.
Fewer than 10 images are split as many are. For 1 % (--config.calibration.alpha=0.01) it
takes 99 images with cross and 495 with split.

The method is AST+ (docs/ast_plus.md), which takes few parts and minutes without a GPU:
small networks that see two depths of the backbone. `:plus` is another name of it.
`:ast` has the networks of the authors' code: on two CPU cores some 44 s a training
image, reckoned from a training of 3 epochs (58 s for 32 images, benchmarks/README.md);
not timed on a GPU. `:small` has those, narrow and with 24 epochs: 3 s an image, as
measured on 96 images of MVTec 3D-AD. A run that was begun before AST+ was the default
goes on with `:ast` or `:small`.

backbone.name=auto is EfficientNet-Lite0, whose weights pip has installed, where JAX has
no GPU or TPU, and else the paper's B5, which is fetched once.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, default


def get_config(variant: str = "") -> ConfigDict:
    """RGB, AST+, a fifth held out; variants: "ast", "small", "plus"."""
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
        config.student.width = 128
        config.teacher.epochs = config.student.epochs = 24
    elif variant != "ast":
        raise ValueError(f"unknown variant {variant!r}; there are ast, small and plus")
    return config
