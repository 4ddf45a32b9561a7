"""Several processes are one run, and a wrong connection is one line."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import layouts
import pytest

from ast_jax import parallel
from ast_jax.errors import UserError

REPOSITORY = Path(__file__).parents[2]
TINY = {
    "mode": "3d",
    "dataset.image_size": 64,
    "teacher.hidden": 4,
    "teacher.blocks": 1,
    "teacher.epochs": 2,
    "student.width": 8,
    "student.blocks": 1,
    "student.epochs": 2,
}


def train_py(
    folder: Path, *flags: str, devices: int, seeds: str = "(0,)"
) -> subprocess.Popen:
    """Trains and evaluates on the stand-in of a data set beside the folder."""
    places = {"dataset.root": folder.parent / "data"}
    places["dataset.data_dir"] = folder / "cache"
    settings = TINY | places | {"train.seeds": seeds}
    config = [f"--config.{key}={value}" for key, value in settings.items()]
    script = [sys.executable, "train.py", "--config=configs/mvtec_3d_ad.py"]
    environment = {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.Popen(
        [*script, f"--workdir={folder / 'run'}", *config, *flags],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def lines(folder: Path, seed: int) -> list[dict]:
    path = folder / "run" / "bagel" / f"seed_{seed}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_with_two_devices_each_are_one_with_four(tmp_path):
    """One seed: the processes share a batch. Two seeds: each process trains one."""
    layouts.mvtec_3d_ad(tmp_path / "data", "bagel", train=16, validation=4, good=4)
    (tmp_path / "one").mkdir()
    one = train_py(tmp_path / "one", devices=4)
    errors = one.communicate(timeout=300)[1]
    assert one.returncode == 0, errors
    for name, seeds in (("batch", "(0,)"), ("tasks", "(0,1)")):
        folder = tmp_path / name
        joined = ["--multihost", f"--coordinator=localhost:{free_port()}"]
        joined += ["--process_count=2"]
        folder.mkdir()
        two = [
            train_py(
                folder, *joined, f"--process_index={index}", devices=2, seeds=seeds
            )
            for index in range(2)
        ]
        errors = [process.communicate(timeout=300)[1] for process in two]
        assert [process.returncode for process in two] == [0, 0], errors
        assert "training" in errors[0]
        assert "training" not in errors[1]  # only the main process logs
        logged = zip(lines(folder, 0), lines(tmp_path / "one", 0), strict=True)
        for ours, theirs in logged:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        ours, theirs = (
            json.loads((path / "run" / "results.json").read_text())["mean"]
            for path in (folder, tmp_path / "one")
        )
        ours = ours if "seeds" not in ours else ours["seeds"]["0"]
        assert ours["image_auroc"] == pytest.approx(theirs["image_auroc"], abs=0.01)
        assert ours["pixel_auroc"] == pytest.approx(theirs["pixel_auroc"], abs=1e-3)
        assert (folder / "run" / "report" / "index.html").exists()


def test_coordinator_count_and_index_go_together():
    with pytest.raises(UserError, match="--process_count and --process_index go"):
        parallel.connect("localhost:1234", None, 0)


def test_without_a_cluster_the_flags_are_named():
    with pytest.raises(UserError, match=r"no connection .*--coordinator=HOST:PORT"):
        parallel.connect()


def test_a_single_process_is_the_main_one_and_waits_for_nobody():
    assert parallel.is_main()
    parallel.barrier("nobody")
    assert parallel.agree(3) == 3


@pytest.fixture(params=[0, 1], ids=["main", "other"])
def process(request, monkeypatch):
    """This process as one of two; `said` holds the values of the main one."""
    said = []
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.jax, "process_index", lambda: request.param)
    monkeypatch.setattr(
        parallel, "agree", lambda value: said[0] if said else said.append(value)
    )
    return request.param, said


def test_what_the_main_process_has_done_the_others_do_after_it(process):
    index, said = process
    if index:
        said.append(False)
    assert parallel.run_main_first(lambda: list(said)) == ([False] if index else [])


def test_where_the_main_process_fails_all_stop(process):
    index, said = process
    if index:
        said.append(True)
        with pytest.raises(UserError, match="The main process has stopped"):
            parallel.run_main_first(lambda: pytest.fail("the others began"))
        return

    def fail():
        said.append(True)
        raise UserError("no such folder")

    with pytest.raises(UserError, match="no such folder"):
        parallel.run_main_first(fail)
