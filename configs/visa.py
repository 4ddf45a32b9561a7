"""VisA with the paper's settings for MVTec AD, the nearest there are.

python train.py --config=configs/visa.py --workdir=runs/visa \\
    --config.dataset.root=/data/VisA

AST's paper has no figures on VisA. Others measured the method there: mean image AUROC
94.9 %, AU-PRO up to 30 % FPR 81.5 %.

Expected time: on two CPU cores some 56 s a training image, so 11 hours a category of
720, reckoned from measured steps (0.51 s the teacher's, 5.75 s the student's, of 8
images); not timed on a GPU. `:small` is for a laptop.
"""

from ml_collections import ConfigDict

from configs import mvtec_ad


def get_config(variant: str = "") -> ConfigDict:
    """RGB alone, a wider teacher, 240 epochs; variant: "small"."""
    config = mvtec_ad.get_config(variant)
    config.dataset.name = "visa"
    return config
