"""The networks against timm's recorded activations, and their layers one by one."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stand_in_weights import REFERENCE, state_dict

from ast_jax.backbones import timm_weights
from ast_jax.backbones.architecture import VARIANTS, architecture, same_pads
from ast_jax.backbones.efficientnet import (
    EfficientNet,
    convolve,
    convolve_depthwise,
    extract,
)
from ast_jax.errors import UserError
from ast_jax.platforms import trace_every_platform

SIZES = ("96x128", "75x101")
RECORDED = ("tf_efficientnet_lite0", "tf_efficientnet_b0", "tf_efficientnet_b5")


def recorded(name, size):
    """{"input_nchw", "stem", "stage0" …: array}, all of them NHWC."""
    with np.load(REFERENCE / f"backbone_{name}.npz") as arrays:
        return {
            key.removeprefix(f"{size}/"): arrays[key].transpose(0, 2, 3, 1)
            for key in arrays.files
            if key.startswith(size)
        }


def network(name, stage, **options):
    net = architecture(name, stage, **options)
    return net, timm_weights.fold(net, state_dict(name).get)


def assert_close(got, expected, tolerance=1e-4):
    """Within `tolerance` of the largest expected value, the recording's own measure."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_stage_is_timms(name, size):
    net, variables = network(name, 6)
    expected = recorded(name, size)
    run = jax.jit(
        lambda variables, x: EfficientNet(net, shifted=True).apply(
            variables, x, mutable="intermediates"
        )
    )
    _, state = run(variables, expected["input_nchw"])
    stages = {key: value for key, (value,) in state["intermediates"].items()}
    assert len(stages) == 8  # the stem and seven stages
    for key, value in stages.items():
        assert_close(value[..., : expected[key].shape[-1]], expected[key])


def test_fixed_pads_are_those_of_efficientnet_pytorch():
    net, variables = network(
        "tf_efficientnet_b5", 5, padding="efficientnet_pytorch_0.7.1"
    )
    expected = recorded("tf_efficientnet_b5", "75x101")
    run = jax.jit(EfficientNet(net, shifted=True).apply)
    assert_close(run(variables, expected["input_nchw"]), expected["fixed_pads"])


def test_fixed_pads_of_b5_differ_from_same_where_the_package_does():
    net = architecture("tf_efficientnet_b5", 5, "efficientnet_pytorch_0.7.1")
    pads = {conv.key: conv.pads for conv in net.convs if conv.stride == 2}
    assert pads["blocks.3.0.conv_dw"] == (1, 1)  # SAME at 768 px: (0, 1)
    assert pads["blocks.5.0.conv_dw"] == (2, 2)  # SAME at 768 px: (1, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_timms_tensors(name):
    expected = json.loads((REFERENCE / "backbone_variants.json").read_text())[name]
    shapes = timm_weights.tensor_shapes(architecture(name, 6))
    listing = "\n".join(sorted(f"{key} {list(s)}" for key, s in shapes.items()))
    assert len(shapes) == expected["tensors"]
    assert hashlib.sha256(listing.encode()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnet_lite0"])
def test_parameters_are_named_and_shaped_as_the_loader_makes_them(name):
    net = architecture(name, 6)
    tensors = {key: np.ones(s) for key, s in timm_weights.tensor_shapes(net).items()}
    made = jax.eval_shape(
        EfficientNet(net).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    loaded = timm_weights.fold(net, tensors.get)
    assert jax.tree.map(jnp.shape, made["params"]) == jax.tree.map(
        jnp.shape, loaded["params"]
    )


def test_folding_batch_norm_changes_nothing():
    net, variables = network("tf_efficientnet_b0", 0)
    tensors, rng = state_dict("tf_efficientnet_b0"), np.random.default_rng(1)
    for conv in (conv for conv in net.convs if conv.norm):
        x = jnp.array(rng.normal(size=(1, 9, 7, conv.inputs)), jnp.float32)
        pads = tuple(same_pads(n, conv.kernel, conv.stride) for n in x.shape[1:3])
        kernel = jnp.array(tensors[f"{conv.key}.weight"].transpose(2, 3, 1, 0))
        gamma, beta, mean, variance = (
            tensors[f"{conv.norm}.{part}"] for part in timm_weights.NORM_PARTS
        )
        unfolded = convolve(x, kernel, conv.stride, pads)
        unfolded = (unfolded - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        kernel, bias = (
            jnp.array(variables["params"][f"{conv.key}.{part}"])
            for part in ("kernel", "bias")
        )
        got = convolve(x, kernel, conv.stride, pads) + bias
        assert_close(got, unfolded, 1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 9), (7, 5)])
def test_shifted_depthwise_is_the_librarys_convolution(kernel, stride, size):
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(2, *size, 4)), jnp.float32)
    weights = jnp.array(rng.normal(size=(kernel, kernel, 1, 4)), jnp.float32)
    pads = tuple(same_pads(n, kernel, stride) for n in size)
    expected = convolve(x, weights, stride, pads)
    assert expected.shape[1:3] == tuple(-(-n // stride) for n in size)
    assert_close(convolve_depthwise(x, weights, stride, pads), expected, 1e-6)


@pytest.mark.parametrize("size", [5, 6, 7, 8, 75])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_pads_are_the_librarys(size, stride, kernel):
    assert list(jax.lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")) == [
        same_pads(size, kernel, stride)
    ]


def test_every_platform_computes_the_same_features():
    net, variables = network("tf_efficientnet_b0", 1)
    x = np.random.default_rng(0).normal(size=(3, 64, 48, 3)).astype(np.float32)
    on_cpu = jax.jit(lambda v, x: extract(net, v, x))(variables, x)
    elsewhere = jax.jit(EfficientNet(net).apply)(variables, x)
    assert_close(on_cpu, elsewhere, 1e-5)


def test_the_library_convolves_where_it_is_fast():
    net, variables = network("tf_efficientnet_lite0", 1)
    images = np.zeros((2, 64, 64, 3), np.float32)
    with trace_every_platform():
        traced = jax.jit(lambda v, x: extract(net, v, x)).trace(variables, images)
    text = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    grouped = "feature_group_count = 144"
    assert grouped in text["cuda"] and "stablehlo.while" not in text["cuda"]
    assert grouped not in text["cpu"] and "stablehlo.while" in text["cpu"]


def test_only_the_layers_up_to_the_stage_exist():
    whole, part = (architecture("tf_efficientnet_b5", stage) for stage in (6, 3))
    assert whole.convs[: len(part.convs)] == part.convs
    assert not any(conv.key.startswith("blocks.4") for conv in part.convs)
    assert dataclasses.replace(whole, stages=whole.stages[:4]) == part


@pytest.mark.parametrize(
    ("name", "stage", "channels", "stride"),
    [
        ("tf_efficientnet_b5", 5, 304, 32),
        ("tf_efficientnet_b5", 4, 176, 16),
        ("tf_efficientnet_lite0", 5, 192, 32),
        ("tf_efficientnet_b7", 0, 32, 2),
    ],
)
def test_channels_and_stride_follow_the_stage(name, stage, channels, stride):
    net = architecture(name, stage)
    assert (net.channels, net.stride) == (channels, stride)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("efficientnet_b5", 5), "efficientnet_b5.*known: tf_efficientnet_b0"),
        (("tf_efficientnet_b5", 7), "backbone.stage: 7"),
        (("tf_efficientnet_b5", -1), "backbone.stage: -1"),
        (("tf_efficientnet_b5", 5, "valid"), "backbone.padding: 'valid'"),
        (("tf_efficientnet_lite0", 5, "efficientnet_pytorch_0.7.1"), "padding=same"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(arguments, message):
    with pytest.raises(UserError, match=message):
        architecture(*arguments)
