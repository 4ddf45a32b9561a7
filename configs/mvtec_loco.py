"""MVTec LOCO AD with the paper's settings for MVTec AD, the most similar ones.

python train.py --config=configs/mvtec_loco.py --workdir=runs/mvtec_loco \\
    --config.dataset.root=/data/mvtec_loco_anomaly_detection

AST's paper has no figures on MVTec LOCO. Others measured the method there: image AUROC
79.7 % on logical, 87.1 % on structural defects, AU-sPRO up to 5 % FPR 42.7 %. Its
validation split calibrates the threshold.

Expected time on two CPU cores: about 6 minutes per training image, an estimate from
steps of 8 images (8 s for the teacher's, beside other work, and 4.1 s for the
student's). These networks need a GPU; there is no time on one yet. `:small` is for a
laptop.
"""

from ml_collections import ConfigDict

from ast_jax import config_file


def get_config(variant: str = "") -> ConfigDict:
    """Returns RGB, a wider teacher, 240 epochs; variants: "small", "plus"."""
    config = config_file.module("mvtec_ad").get_config(variant)
    config.dataset.name = "mvtec_loco"
    return config
