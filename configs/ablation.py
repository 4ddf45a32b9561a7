"""The paper's ablation: teacher alone, symmetric and asymmetric pair, and their parts.

python train.py --config=configs/ablation.py --workdir=runs/ablation \\
    --config.dataset.root=/data/mvtec_3d_ad --config.dataset.categories="('bagel',)"

Trains every variant as an ordinary run in DIR/<variant>, then prints a table, which
stands in DIR/ablation.md and .json too; a teacher that several share is trained once.
`:small` is for a laptop; `:synthetic` takes those of `quickstart:scattering`. Other
variants: --config.variants="(('wide', {'student.width': 256}),)".
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


def get_config(variant: str = "") -> ConfigDict:
    """MVTec 3D-AD's settings and the variants; choices: "small", "synthetic"."""
    config = default()
    if variant == "small":
        config.backbone.name = "auto"
        config.student.width = 128
        config.teacher.epochs = config.student.epochs = 24
    elif variant == "synthetic":
        config = config_file.module("quickstart").get_config("scattering")
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; there are small and synthetic")
    with config.unlocked():
        config.variants = VARIANTS
    return config
