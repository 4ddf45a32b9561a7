"""VisA with the paper's settings for MVTec AD, the most similar ones.

python train.py --config=configs/visa.py --workdir=runs/visa \\
    --config.dataset.root=/data/VisA

AST's paper has no figures on VisA. Others measured the method there: mean image AUROC
94.9 %, AU-PRO up to 30 % FPR 81.5 %.

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
    config.dataset.name = "visa"
    return config
