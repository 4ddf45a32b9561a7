"""VisA with the paper's settings for MVTec AD, the nearest there are.

python train.py --config=configs/visa.py --workdir=runs/visa \\
    --config.dataset.root=/data/VisA

AST's paper has no figures on VisA. Others measured the method there: mean image AUROC
94.9 %, AU-PRO up to 30 % FPR 81.5 %.

Expected time: on two CPU cores some 6 minutes a training image, reckoned from
measured steps (8 s the teacher's beside other work, 4.1 s the student's, of 8
images): these networks want a GPU, on which they were not timed yet. `:small` is for
a laptop.
"""

from ml_collections import ConfigDict

from ast_jax import config_file


def get_config(variant: str = "") -> ConfigDict:
    """RGB alone, a wider teacher, 240 epochs; variants: "small", "plus"."""
    config = config_file.module("mvtec_ad").get_config(variant)
    config.dataset.name = "visa"
    return config
