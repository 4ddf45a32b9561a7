"""The ablations of the paper and of AST+: trains variants and compares them.

python train.py --config=configs/ablation.py --workdir=runs/ablation \\
    --config.dataset.root=/data/mvtec_3d_ad --config.dataset.categories="('bagel',)"

The command trains every variant as an ordinary run in DIR/<variant>. Then it prints a
table, and writes it as DIR/ablation.md and .json. A network that several variants share
is trained once. The table also has two baselines, which train nothing. `:small` is for
a laptop; `:synthetic` uses the configuration `quickstart:scattering`. These compare
AST+ (docs/ast_plus.md) with AST+ without one part:

python train.py --config=configs/ablation.py:plus …       RGB+3D, MVTec 3D-AD
python train.py --config=configs/ablation.py:plus_rgb …   RGB, MVTec AD
python train.py --config=configs/ablation.py:plus_solar … RGB, the cells of solar.py

Other variants: --config.variants="(('wide', {'student.width': 256}),)".
"""

from ml_collections import ConfigDict

from ast_jax import config_file
from ast_jax.config import check_variant, default, small

VARIANTS = (
    ("asymmetric", {}),  # the first variant's teacher is "teacher alone" in the table
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
    ("smoothed", {"evaluation.smoothing": 3.0}),
    ("same_units", {"evaluation.border_units": False}),
    ("no_flow", {"teacher.coupling": "additive", "teacher.blocks": 0}),
    ("additive", {"teacher.coupling": "additive"}),
    ("wide_clamp", {"teacher.clamp": 1.9}),
    ("not_whitened", {"features.whiten": False}),
    ("stage_4", {"features.taps": (4,)}),  # the student sees the teacher's stage
    ("stage_5", {"features.taps": (5,)}),
    ("constant_rate", {"train.schedule": "constant"}),
)
PLUS_DEPTH = (
    ("joint", {"fusion": "joint"}),
    ("unshuffled", {"depth.input": "unshuffled"}),
)

_OTHERS = {  # variant → a configuration, its variant, the ablation's variants
    "synthetic": ("quickstart", "scattering", VARIANTS),
    "plus": ("mvtec_3d_ad", "plus", PLUS + PLUS_DEPTH),
    "plus_rgb": ("mvtec_ad", "plus", PLUS),
    "plus_solar": ("solar", "plus", PLUS),
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns MVTec 3D-AD's settings and the paper's variants, or one of _OTHERS."""
    check_variant(variant, "small", *_OTHERS)
    config, variants = default(), VARIANTS
    if variant == "small":
        config = small(config)
    elif variant:
        name, other, variants = _OTHERS[variant]
        config = config_file.module(name).get_config(other)
    with config.unlocked():
        config.variants = variants
    return config
