"""The benchmarks' PyTorch renditions equal the authors' code, as recorded."""

import numpy as np
import pytest
from reference_arrays import CASES, load, relative_error

torch = pytest.importorskip("torch", reason="PyTorch, the benchmarks' yardstick")

from benchmarks import torch_ast  # noqa: E402
from benchmarks.exchange import torch_state  # noqa: E402

STEPS, BATCH = 8, 3
LOSS_TOLERANCE = {"combi": 1e-4, "rgb": 1e-4, "depth": 5e-4}
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return load(request.param)


def tensors(case, prefix: str):
    """x [b,c,8,8] and the foreground weight [b,8,8]."""
    x = torch.from_numpy(case.x(prefix)).permute(0, 3, 1, 2)
    return x, torch.from_numpy(np.array(case.foreground(prefix), np.float32))


def teacher(case, name: str = "teacher"):
    network = torch_ast.TorchTeacher(8, case["teacher_z"].shape[1], hidden=16)
    return loaded(network, {"params": case.teacher(name)})


def student(case):
    network = torch_ast.TorchStudent(8, case["teacher_z"].shape[1], width=32)
    return loaded(network, case.student())


def loaded(network, variables):
    """The network with the authors' weights; every tensor has its place."""
    state = {key: torch.tensor(v) for key, v in torch_state(variables).items()}
    found = network.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys)
    return network


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_passes_losses_and_scores_equal_the_authors(case, layout):
    x, m = tensors(case, "in")
    x = x.contiguous(memory_format=LAYOUTS[layout])
    with torch.inference_mode():
        z, log_det = teacher(case)(x)
        z_student = student(case).eval()(x)
        score_map, maximum, mean = torch_ast.scores(z, z_student, m)
        nll = torch_ast.negative_log_likelihood(z, log_det, m)
    for found, key in (
        (z, "teacher_z"),
        (log_det, "teacher_log_det"),
        (z_student, "student_eval"),
        (nll, "nll_pixel"),
        (torch_ast.distance(z, z_student, m), "distance_pixel"),
        (score_map, "score_map"),
        (maximum, "score_max"),
        (mean, "score_mean"),
    ):
        assert relative_error(found, case[key]) < 1e-5, key


def test_eight_steps_of_each_network_have_the_authors_losses(case):
    x, m = (t.split(BATCH) for t in tensors(case, "traj"))
    network = teacher(case)
    optimiser, losses = torch_ast.adam(network), []
    for x_step, m_step in zip(x, m, strict=True):
        nll = torch_ast.negative_log_likelihood(*network(x_step), m_step)
        losses.append(float(torch_ast.step(nll.mean(), optimiser)))
    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, case["traj/teacher_loss"], rtol=1e-4)

    frozen, network = teacher(case, "teacher_after"), student(case)
    optimiser, losses = torch_ast.adam(network), []
    for x_step, m_step in zip(x, m, strict=True):
        with torch.no_grad():
            z = frozen(x_step)[0]
        loss = torch_ast.distance(z, network(x_step), m_step).mean()
        losses.append(float(torch_ast.step(loss, optimiser)))
    tolerance = LOSS_TOLERANCE[case.name]
    np.testing.assert_allclose(losses, case["traj/student_loss"], rtol=tolerance)
