"""A run that is killed at any moment ends like an uninterrupted one, bit for bit.

A chain is one run that is killed five times, once in each phase, and then finishes.
The suite has one chain; four, so twenty kills:

AST_KILL_CHAINS=4 python -m pytest tests/training/test_kill.py
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import layouts
import numpy as np
import pytest

from ast_jax.inference.pair import load_pair
from ast_jax.run import Run
from ast_jax.training.progress import read_rows

REPOSITORY = Path(__file__).parents[2]
CHAINS = int(os.environ.get("AST_KILL_CHAINS", "1"))
SEED = int(os.environ.get("AST_KILL_SEED", "0"))
PAIR = Path("run", "bagel", "seed_0")
EPOCHS, LAST_STEP = 40, "120"
COURSE = ("preparation", "extraction", "teacher", "student", "evaluation")
POLL_SECONDS = 0.003
# A kill comes in the first half of a phase, or in its first so many seconds: data and
# features are ready long before the teacher has made an epoch.
LATEST = {"preparation": 0.5, "extraction": 0.5, "writing a checkpoint": 0.03}

pytestmark = pytest.mark.slow


def command(folder: Path) -> list[str]:
    """Trains and evaluates a tiny pair on the stand-in below `folder`'s parent."""
    settings = {
        "dataset.root": folder.parent / "data",
        "dataset.data_dir": folder / "cache",
        "dataset.image_size": 64,
        "backbone.name": "scattering",
        "teacher.blocks": 1,
        "teacher.hidden": 4,
        "teacher.epochs": EPOCHS,
        "student.blocks": 1,
        "student.width": 8,
        "student.epochs": EPOCHS,
        "train.batch_size": 4,
        "train.checkpoint_epochs": 5,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    script = [sys.executable, "train.py", "--config=configs/mvtec_3d_ad.py"]
    return [*script, f"--workdir={folder / 'run'}", *flags]


@contextlib.contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen]:
    """Starts the run, and ends it if it is still running; log.txt has its output."""
    environment = {
        # Compiling is most of a start's time.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "JAX_PLATFORMS": "cpu",
    }
    environment.pop("XLA_FLAGS", None)
    with (
        (folder / "log.txt").open("a") as log,
        subprocess.Popen(
            command(folder),
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def is_there(folder: Path, phase: str, since: float) -> bool:
    """Whether a run that started at the time `since` has reached a phase."""

    def any_new(pattern: str) -> bool:
        return any(path.stat().st_mtime > since for path in folder.glob(pattern))

    # The first row may be written between these two lines, so the order matters.
    begun = any_new(f"{PAIR}/metrics.jsonl")
    rows = read_rows(folder / PAIR / "metrics.jsonl")
    stage = rows[-1]["stage"] if begun and rows else None
    evaluating = (folder / PAIR / "student" / LAST_STEP).exists()
    match phase:
        case "preparation":
            return any_new("cache/mvtec_3d_ad/*/incomplete*")
        case "extraction":
            return any_new("cache/features/*/*.npy")
        case "teacher":
            return stage is not None or evaluating
        case "writing a checkpoint":
            return any_new(f"{PAIR}/*/*.orbax-checkpoint-tmp") or evaluating
        case "student":
            return stage == "student" or evaluating
    return evaluating


def wait_for(process: subprocess.Popen, folder: Path, phase: str, since: float) -> bool:
    """Waits until a phase begins; returns False if the process ends before."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # renamed while it was looked at
            if is_there(folder, phase, since):
                return True
        time.sleep(POLL_SECONDS)
    return False


def told(folder: Path) -> str:
    """The output of the runs in a folder."""
    return (folder / "log.txt").read_text()


def finish(process: subprocess.Popen, folder: Path) -> None:
    """Waits for the command's end."""
    assert process.wait(timeout=1200) == 0, told(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run from start to end, and how many seconds each phase took."""
    folder = tmp_path_factory.mktemp("kill") / "undisturbed"
    folder.mkdir()
    layouts.mvtec_3d_ad(folder.parent / "data", "bagel", train=14, validation=4)
    times = []
    with started(folder) as process:
        for phase in COURSE:
            assert wait_for(process, folder, phase, since=0), told(folder)
            times.append(time.monotonic())
        finish(process, folder)
    times.append(time.monotonic())
    seconds = [end - begin for begin, end in itertools.pairwise(times)]
    return folder, dict(zip(COURSE, seconds, strict=True))


def kill_once(folder: Path, phase: str, after: float) -> None:
    """Starts or continues a run and kills it some seconds after a phase begins."""
    before = folder.with_name("before")
    subprocess.run(["rm", "-rf", before], check=True)
    subprocess.run(["cp", "-r", folder, before], check=True)
    for delay in (after, after / 4, 0):  # shorter if it ends before it is killed
        since = time.time()
        with started(folder) as process:
            assert wait_for(process, folder, phase, since), told(folder)
            time.sleep(delay)
            process.kill()
            if process.wait() == -signal.SIGKILL:
                break
        subprocess.run(["rm", "-rf", folder], check=True)
        subprocess.run(["cp", "-r", before, folder], check=True)
    else:
        pytest.fail(f"always ended before it was killed: {told(folder)}")
    left = sorted(path.name for path in (folder / PAIR).glob("*/*"))
    print(f"killed {delay:.2f} s into {phase}; checkpoints: {' '.join(left)}")


def outcome(folder: Path) -> dict:
    """All files of a run, without the times."""
    pair = folder / PAIR
    rows = [
        {key: value for key, value in row.items() if key != "images/s"}
        for row in read_rows(pair / "metrics.jsonl")
    ]
    jsons = [folder / "run" / "results.json", pair / "inputs.json"]
    jsons.append(folder / "run" / "bagel" / "calibration.json")
    checkpoints = sorted(p.name for p in pair.glob("*/*") if p.is_dir())
    return {
        "metrics": rows,
        "jsons": [path.read_text() for path in jsons],
        "checkpoints": checkpoints,
        "report": (folder / "run" / "report" / "index.html").exists(),
    }


def assert_same_run(folder: Path, whole: Path) -> None:
    assert outcome(folder) == outcome(whole)
    variables = [
        load_pair(Run.open(f / "run"), "bagel", 0).variables for f in (folder, whole)
    ]
    leaves = [jax.tree.leaves_with_path(tree) for tree in variables]
    for (path, one), (_, other) in zip(*leaves, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_run_that_is_killed_in_each_phase_ends_as_the_undisturbed_one(
    undisturbed, chain
):
    whole, seconds = undisturbed
    rng = np.random.default_rng([SEED, chain])
    folder = whole.parent / f"chain_{chain}"
    folder.mkdir()
    before = ("preparation", "extraction")[chain % 2]
    for phase in (before, "teacher", "writing a checkpoint", "student", "evaluation"):
        latest = LATEST.get(phase) or 0.5 * seconds[phase]
        kill_once(folder, phase, rng.uniform(0, latest))
    with started(folder) as process:
        finish(process, folder)
    assert "Traceback" not in told(folder)
    assert_same_run(folder, whole)


def test_sigterm_saves_and_ends_the_run_within_30_seconds(undisturbed):
    whole, _ = undisturbed
    folder = whole.parent / "terminated"
    folder.mkdir()
    subprocess.run(["cp", "-r", whole / "cache", folder], check=True)
    with started(folder) as process:
        assert wait_for(process, folder, "teacher", since=0), told(folder)
        begin = time.monotonic()
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM, told(folder)
    print(f"SIGTERM was obeyed in {time.monotonic() - begin:.2f} s")
    assert "teacher: saved; run the same command to continue" in told(folder)
    with started(folder) as process:
        finish(process, folder)
    assert "Traceback" not in told(folder)
    assert_same_run(folder, whole)


def test_the_comparison_sees_a_difference(undisturbed):
    whole, _ = undisturbed
    folder = whole.parent / "altered"
    subprocess.run(["cp", "-r", whole, folder], check=True)
    path = folder / "run" / "results.json"
    tree = json.loads(path.read_text())
    tree["mean"]["image_auroc"] = 0.123
    path.write_text(json.dumps(tree))
    with pytest.raises(AssertionError):
        assert_same_run(folder, whole)
