"""MVTec LOCO AD with the paper's settings for MVTec AD, the nearest there are.

python train.py --config=configs/mvtec_loco.py --workdir=runs/mvtec_loco \\
    --config.dataset.root=/data/mvtec_loco_anomaly_detection

AST's paper has no figures on MVTec LOCO. Others measured the method there: image AUROC
79.7 % on logical, 87.1 % on structural defects, AU-sPRO up to 5 % FPR 42.7 %. Its
validation split calibrates the threshold. The full networks have not been timed on it;
`:small` is for a laptop.
"""

from ml_collections import ConfigDict

from configs import mvtec_ad


def get_config(variant: str = "") -> ConfigDict:
    """RGB alone, a wider teacher, 240 epochs; variant: "small"."""
    config = mvtec_ad.get_config(variant)
    config.dataset.name = "mvtec_loco"
    return config
