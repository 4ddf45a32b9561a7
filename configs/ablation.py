"""The paper's ablation, and AST+'s: variants trained and set side by side.

python train.py --config=configs/ablation.py --workdir=runs/ablation \\
    --config.dataset.root=/data/mvtec_3d_ad --config.dataset.categories="('bagel',)"

Trains every variant as an ordinary run in DIR/<variant>, then prints a table, which
stands in DIR/ablation.md and .json too; a teacher that several share is trained once.
Two baselines that train nothing stand beside the variants. `:small` is for a laptop;
`:synthetic` takes those of `quickstart:scattering`. AST+ (docs/ast_plus.md), each part
switched off:

python train.py --config=configs/ablation.py:plus …       RGB+3D, MVTec 3D-AD
python train.py --config=configs/ablation.py:plus_rgb …   RGB, MVTec AD
python train.py --config=configs/ablation.py:plus_solar … RGB, the cells of solar.py

Other variants: --config.variants="(('wide', {'student.width': 256}),)".
"""

from ml_collections import ConfigDict

from ast_jax import config_file
from ast_jax.config import default

VARIANTS = (
    ("asymmetric", {}),  # the first's teacher is the table's "teacher alone"
    ("symmetric", {"student.kind": "flow"}),
    ("no_encoding", {"teacher.positional_encoding": False}),
    *((f"blocks_{n}", {"student.blocks": n}) for n in (1, 2, 8)),  # 4 is the default
)
PLUS = (
    ("plus", {}),
    ("same_input", {"student.input": "same"}),
    ("all_positions", {"student.hardest": 1.0}),
    ("symmetric", {"student.input": "same", "student.kind": "flow"}),
    ("maximum", {"evaluation.image_score": "max"}),
    ("not_smoothed", {"evaluation.smoothing": 0.0}),
    ("no_flow", {"teacher.blocks": 0}),
    ("affine", {"teacher.coupling": "affine"}),
    ("not_whitened", {"features.whiten": False}),
    ("stage_4", {"features.taps": (4,)}),  # a student has no other stage to see
    ("stage_5", {"features.taps": (5,)}),
    ("constant_rate", {"train.schedule": "constant"}),
)
PLUS_DEPTH = (
    ("joint", {"fusion": "joint"}),
    ("unshuffled", {"depth.input": "unshuffled"}),
)

_OTHERS = {  # variant → configuration, its variant, what is compared
    "synthetic": ("quickstart", "scattering", VARIANTS),
    "plus": ("mvtec_3d_ad", "plus", PLUS + PLUS_DEPTH),
    "plus_rgb": ("mvtec_ad", "plus", PLUS),
    "plus_solar": ("solar", "plus", PLUS),
}


def get_config(variant: str = "") -> ConfigDict:
    """MVTec 3D-AD's settings and the paper's variants, or a choice of the above."""
    config, variants = default(), VARIANTS
    if variant == "small":
        config.backbone.name = "auto"
        config.student.width = 128
        config.teacher.epochs = config.student.epochs = 24
    elif variant in _OTHERS:
        name, other, variants = _OTHERS[variant]
        config = config_file.module(name).get_config(other)
    elif variant:
        known = ", ".join(_OTHERS)
        raise ValueError(f"unknown variant {variant!r}; there are small, {known}")
    with config.unlocked():
        config.variants = variants
    return config
