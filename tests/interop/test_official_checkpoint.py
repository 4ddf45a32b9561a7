"""The authors' state dicts are read whole, or refused with the tensor's name."""

import pytest
from reference_arrays import load

from ast_jax.errors import UserError
from ast_jax.interop.official_checkpoint import student_variables, teacher_params


def test_kernels_are_transposed_and_the_students_gamma_is_not_needed():
    case = load("rgb")
    state = case.state_dict("student")
    kernel = student_variables(state)["params"]["conv1"]["kernel"]
    assert kernel.shape == (*state["conv1.weight"].shape[2:], 72, 32)
    del state["gamma"]
    assert student_variables(state)["params"].keys() >= {"conv1", "block3", "conv2"}


def test_a_missing_tensor_is_named():
    state = load("rgb").state_dict("teacher")
    del state["module_list.5.s1.conv2.bias"]
    with pytest.raises(UserError, match=r"no 'module_list.5.s1.conv2.bias'"):
        teacher_params(state)


def test_tensors_without_a_place_are_refused():
    with pytest.raises(UserError, match=r"module_list.9.*check the configuration"):
        teacher_params(load("rgb").state_dict("teacher"), blocks=3)
    with pytest.raises(UserError, match=r"student: .* tensors have no place"):
        student_variables(load("rgb").state_dict("student"), blocks=3)
