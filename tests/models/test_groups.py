"""AST+'s wiring: a teacher for each group of channels, a student on other stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.config import ast_plus, default
from ast_jax.features.blocks import Block
from ast_jax.models import create_student, create_teacher
from ast_jax.models.groups import Group, arrange, take

pytestmark = pytest.mark.usefixtures("quick_compilation")

RGB = (Block("rgb", 2), Block("rgb", 3))
BOTH = (*RGB, Block("depth", 2), Block("depth", 3))


@pytest.mark.parametrize(
    ("fusion", "student_input", "expected"),
    [
        (
            "late",
            "cross",
            (
                Group(((0, 2),), ((2, 5),)),
                Group(((2, 5),), ((0, 2),)),
                Group(((5, 7),), ((7, 10),)),
                Group(((7, 10),), ((5, 7),)),
            ),
        ),
        (
            "joint",
            "cross",
            (
                Group(((0, 2), (5, 7)), ((2, 5), (7, 10))),
                Group(((2, 5), (7, 10)), ((0, 2), (5, 7))),
            ),
        ),
        (
            "joint",
            "same",
            (
                Group(((0, 2), (5, 7)), ((0, 2), (5, 7))),
                Group(((2, 5), (7, 10)), ((2, 5), (7, 10))),
            ),
        ),
    ],
)
def test_the_wiring_is_the_modules_table(fusion, student_input, expected):
    assert arrange(BOTH, fusion=fusion, student_input=student_input) == expected


def test_one_stage_and_joint_fusion_is_the_papers_single_pair():
    blocks = (Block("rgb", 304), Block("depth", 64))
    (group,) = arrange(blocks, fusion="joint", student_input="same")
    assert group == Group(((0, 368),), ((0, 368),))


def test_a_stage_without_another_is_seen_by_its_own_student():
    blocks = (*RGB, Block("depth", 64))
    *_, depth = arrange(blocks, fusion="late", student_input="cross")
    assert depth == Group(((5, 69),), ((5, 69),))


def test_ranges_are_taken_side_by_side():
    x = jnp.arange(10.0).reshape(1, 1, 1, 10)
    np.testing.assert_array_equal(take(x, ((7, 9), (0, 2)))[0, 0, 0], [7, 8, 0, 1])


def networks(fusion: str, **teacher: str):
    config = ast_plus(default())
    config.fusion = fusion
    config.teacher.update(blocks=2, hidden=4, **teacher)
    config.student.update(blocks=1, width=4)
    size = {"side": 4, "channels": 10, "blocks": BOTH}
    pair = create_teacher(config, **size), create_student(config, **size)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 10))
    variables = [jax.eval_shape(net.init, jax.random.key(0), x) for net in pair]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        low = 0.1 if path[-1].key == "var" else -0.2
        return jnp.asarray(rng.uniform(low, 0.2, leaf.shape), leaf.dtype)

    drawn = [jax.tree.map_with_path(draw, one) for one in variables]
    return *zip(pair, drawn, strict=True), x


@pytest.mark.parametrize("fusion", ["late", "joint"])
def test_additive_teachers_side_by_side_change_volume_by_scales_alone(fusion):
    (teacher, variables), _, x = networks(fusion, coupling="additive")
    z, log_det = jax.jit(teacher.apply)(variables, x)
    back, inverse = jax.jit(lambda v, z: teacher.apply(v, z, method="inverse"))(
        variables, z
    )
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(inverse, -log_det)
    scales = [flow["log_scale"].sum() for flow in variables["params"].values()]
    np.testing.assert_allclose(log_det, np.full((2, 4, 4), sum(scales)), rtol=1e-5)


@pytest.mark.parametrize("fusion", ["late", "joint"])
def test_teachers_side_by_side_invert_and_nearly_preserve_volume(fusion):
    """Each of two blocks scales each of ten channels by a tenth at most."""
    (teacher, variables), _, x = networks(fusion)
    far = jax.tree.map(lambda leaf: 100 * leaf, variables)
    for drawn in (variables, far):
        z, log_det = jax.jit(teacher.apply)(drawn, x)
        assert 0.1 < jnp.abs(log_det).max() < 0.1 * 2 * 10
    z, log_det = jax.jit(teacher.apply)(variables, x)
    back, inverse = jax.jit(lambda v, z: teacher.apply(v, z, method="inverse"))(
        variables, z
    )
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(inverse, -log_det, atol=1e-5)


def test_a_student_sees_the_other_stage_of_its_modality_alone():
    """The second group's z depends on its own stage, its ẑ on the first's."""
    (teacher, teacher_variables), (student, student_variables), x = networks("late")

    def change(network, variables, channels):
        y = x.at[..., slice(*channels)].add(1.0)
        results = [jax.jit(network.apply)(variables, each) for each in (x, y)]
        before, after = (r[0] if isinstance(r, tuple) else r for r in results)
        return set(np.flatnonzero((before != after).any((0, 1, 2))).tolist())

    assert change(teacher, teacher_variables, (2, 5)) == {2, 3, 4}
    assert change(student, student_variables, (0, 2)) == {2, 3, 4}
    assert change(student, student_variables, (2, 5)) == {0, 1}
    assert change(student, student_variables, (7, 10)) == {5, 6}
