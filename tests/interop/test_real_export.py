"""With real weights the file decides like its detector on all images of cable_gland.

Needs the folder `shared` beside the repository (or AST_JAX_SHARED) with cable_gland of
MVTec 3D-AD and EfficientNet-Lite0; skipped without it.
"""

import os
from pathlib import Path

import pytest
from exported_detectors import calibrated_on, untrained

from ast_jax import data
from ast_jax.config import default
from ast_jax.interop.compare import compare, load_function
from ast_jax.interop.export import export

SHARED = Path(
    os.environ.get("AST_JAX_SHARED", Path(__file__).parents[3] / "shared")
).absolute()
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
ROOT = SHARED / "data" / "mvtec_3d_ad"


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{SHARED} is not there")
def test_every_test_image_gets_the_detectors_decision(tmp_path):
    config = default()
    config.dataset.update(root=str(ROOT), data_dir=str(tmp_path))
    config.backbone.update(name="tf_efficientnet_lite0", weights=str(WEIGHTS))
    config.student.width = 64
    parts = data.load(config.dataset, "cable_gland", mode="rgb3d")
    good = [(part.image, part.z) for part in parts["train"].subset(range(15))]
    detector = calibrated_on(untrained(config), good)
    export(detector, tmp_path / "detector.stablehlo")
    function = load_function(tmp_path / "detector.stablehlo")
    comparison = compare(detector, function, parts["test"])
    print(comparison)
    assert comparison.parts == 108
    assert comparison.agrees
