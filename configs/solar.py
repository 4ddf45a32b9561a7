"""Solar cells: real pictures and real features with nothing but pip.

pip install ast-jax[solar]
python train.py --config=configs/solar.py --workdir=runs/solar

Electroluminescence pictures of mono- and polycrystalline cells, from the package
elpv-dataset (91 MB, CC BY-NC-SA 4.0: not for commercial use), and EfficientNet-Lite0
from its own. 250 good cells to train, a fifth of them held out for the threshold; 100
others and 100 defective ones to test. --config.dataset.elpv.uncertain=True tests on the
cells of probability 1/3 and 2/3 too, which are types of their own;
--config.dataset.seed=1 draws other cells.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, default


def get_config(variant: str = "") -> ConfigDict:
    """The narrow networks of `:small`, at the size whose map is 24 by 24; or "plus"."""
    config = default()
    config.dataset.name = "elpv"
    config.mode = "rgb"
    config.backbone.name = "tf_efficientnet_lite0.package"
    config.student.width = 128
    config.teacher.epochs = config.student.epochs = 24
    config.calibration.alpha = 0.05
    config.calibration.fraction = 0.2
    if variant == "plus":
        config = ast_plus(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; there is plus")
    return config
