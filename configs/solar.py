"""Solar cells: real pictures and real features; pip installs all of it.

pip install ast-jax[solar]
python train.py --config=configs/solar.py --workdir=runs/solar

Electroluminescence pictures of mono- and polycrystalline cells, from the package
elpv-dataset (91 MB, CC BY-NC-SA 4.0: not for commercial use), and EfficientNet-Lite0
from another package. 250 good cells train; a fifth of them is held out for the
threshold. 100 other good cells and 100 defective ones test.
--config.dataset.elpv.uncertain=True also tests on the cells of probability 1/3 and 2/3,
each as a separate type.
--config.dataset.seed=1 draws other cells.

On two CPU cores AST takes 5 minutes a category and reaches image AUROC 91.3 ± 0.6 on
mono- and 80.7 ± 0.6 on polycrystalline cells. `:plus` (AST+) takes 3 minutes, 107 s
of them for training, and reaches 95.0 ± 0.1 and 83.6 ± 0.8 (three seeds each).
docs/ast_plus.md has the commands and the machine.
"""

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, check_variant, default, small


def get_config(variant: str = "") -> ConfigDict:
    """Returns small networks at a size whose map is 24 by 24; variant: "plus"."""
    check_variant(variant, "plus")
    config = small(default())
    config.dataset.name = "elpv"
    config.mode = "rgb"
    config.backbone.name = "tf_efficientnet_lite0.package"
    config.calibration.alpha = 0.05
    config.calibration.fraction = 0.2
    if variant == "plus":
        config = ast_plus(config)
    return config
