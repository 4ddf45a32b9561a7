"""Several stages of a backbone are joined side by side on one grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ast_jax import backbones
from ast_jax.backbones import scattering, taps, timm_weights
from ast_jax.backbones.architecture import architecture
from ast_jax.backbones.efficientnet import EfficientNet, extract
from ast_jax.config import default

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_finer_tap_is_averaged_over_three_positions_and_then_over_cells():
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    smooth = ndimage.uniform_filter(x, (1, 3, 3, 1), mode="nearest")
    expected = smooth.reshape(2, 4, 2, 3, 4, 3).mean((2, 4))
    np.testing.assert_allclose(taps.coarsen(jnp.asarray(x), 4, 3), expected, atol=1e-6)


def test_what_lies_on_the_grid_stays_as_it_is():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)))
    np.testing.assert_array_equal(taps.coarsen(x, 4, 4), x)


def test_positions_that_do_not_fill_the_cells_are_refused():
    with pytest.raises(ValueError, match="6x4 positions do not fit 4x4"):
        taps.coarsen(jnp.zeros((1, 6, 4, 2)), 4, 4)


def test_taps_are_the_stages_outputs_side_by_side():
    net = architecture("tf_efficientnet_lite0", 3)
    rng = np.random.default_rng(0)
    shapes = timm_weights.tensor_shapes(net)
    variables = timm_weights.fold(
        net, lambda key: rng.uniform(0.1, 0.5, shapes[key]).astype(np.float32)
    )
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    model = EfficientNet(net, shifted=True)
    run = jax.jit(lambda v, x: model.apply(v, x, mutable="intermediates")[1])
    stages = {k: v[0] for k, v in run(variables, images)["intermediates"].items()}
    joined = jax.jit(lambda v, x: extract(net, v, x, (1, 2, 3)))(variables, images)
    alone = jax.jit(lambda v, x: extract(net, v, x))(variables, images)
    expected = [
        taps.coarsen(stages["stage1"], *alone.shape[1:3]),
        taps.coarsen(stages["stage2"], *alone.shape[1:3]),
        alone,
    ]
    np.testing.assert_allclose(joined, np.concatenate(expected, -1), rtol=1e-4)


def test_scattering_has_two_taps_fine_octaves_and_coarse():
    config = default()
    config.backbone.name = "scattering"
    whole = backbones.create(config.backbone, image_size=64)
    split = backbones.create(config.backbone, image_size=64, taps=(4, 5))
    assert whole.taps in ((), (whole.channels,))
    assert sum(split.taps) == split.channels == whole.channels
    assert split.fingerprint != whole.fingerprint
    fine = [scattering.paths()[c] for c in scattering.split_octaves()[0]]
    assert len(fine) == split.taps[0]
    assert {max(path.scales) for path in fine} == {0, 1, 2}
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    order = np.concatenate(scattering.split_octaves())
    np.testing.assert_allclose(
        jax.jit(split.apply)(split.variables, images),
        jax.jit(whole.apply)(whole.variables, images)[..., order],
        rtol=1e-5,
    )
