"""Time from the shell's prompt to the first answer of `predict.py`, and where it goes.

    python -m benchmarks.first_answer --workdir=runs/quickstart --input=PICTURE

Each round is a new process that scores one picture. The first has an empty cache of
programs; the others find what it left, and their median counts. The phases are those of
further processes, because a clock around each takes time itself. `Detector.load` to
`predict` is another process, without `predict.py`, its table and its heat map. Prints
Markdown.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from ast_jax import cli

ROOT = Path(__file__).parents[1]
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that find compiled programs.")
_CATEGORY = flags.DEFINE_string("category", None, "Needed if the run has several.")
_PHASES = flags.DEFINE_string("phases", None, "Used inside: the folder of the output.")
# run folder, category, picture, point cloud
_LOAD = """
import sys
from ast_jax import Detector, cli
cli.keep_compiled()
run, category, *files = (argument or None for argument in sys.argv[1:])
Detector.load(run, category, traced_in=cli.traced_folder()).predict(*files)
"""
cli.define_path("workdir", "The run's folder.")
cli.define_path("input", "A picture; its point cloud lies in xyz/ beside rgb/.")


def main(_: list[str]) -> None:
    """Measures, or inside the command answers with one process's phases."""
    if _PHASES.value:
        print(json.dumps(measure_phases(Path(_PHASES.value))), file=sys.__stdout__)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rounds = range(1 + _ROUNDS.value)
        times = {
            "`predict.py`": [seconds(folder, "a", predict(folder)) for _ in rounds],
            "`Detector.load` to `predict`": [
                seconds(folder, "c", load_and_predict()) for _ in rounds
            ],
        }
        each = [run_phases(folder, "b") for _ in rounds]
    times |= {name: [one[name] for one in each] for name in each[0]}
    print("| | first time, s | again, s |\n|---|---|---|")
    for name, (first, *others) in times.items():
        print(f"| {name} | {first:.2f} | {statistics.median(others):.2f} |")


def environment(folder: Path, cache: str) -> dict[str, str]:
    """Returns an environment whose cache of compiled programs has a new folder."""
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / cache)}


def predict(folder: Path) -> list[str]:
    """Returns the command that scores the picture and draws its heat map."""
    values = flags.FLAGS
    command = [sys.executable, str(ROOT / "predict.py"), f"--workdir={values.workdir}"]
    command += [f"--input={values.input}", f"--output={folder / 'output'}"]
    return command + ([f"--category={_CATEGORY.value}"] if _CATEGORY.value else [])


def load_and_predict() -> list[str]:
    """Returns the command of a script that scores the picture."""
    values = flags.FLAGS
    picture = Path(values.input)
    cloud = picture.parents[1] / "xyz" / f"{picture.stem}.tiff"
    files = [str(picture), *([str(cloud)] if cloud.exists() else [])]
    run = [str(values.workdir), _CATEGORY.value or ""]
    return [sys.executable, "-c", _LOAD, *run, *files]


def seconds(folder: Path, cache: str, command: list[str]) -> float:
    """The time of one command, from start to exit."""
    start = time.perf_counter()
    subprocess.run(
        command,
        env=environment(folder, cache),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def run_phases(folder: Path, cache: str) -> dict[str, float]:
    """The phases of one more process, and the start of Python before them."""
    command = [sys.executable, "-m", "benchmarks.first_answer", *sys.argv[1:]]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, f"--phases={folder / 'output'}"],
        env=environment(folder, cache),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    whole = time.perf_counter() - start
    found = json.loads(done.stdout.splitlines()[-1])
    return {"start and exit of Python": whole - sum(found.values())} | found


def measure_phases(output: Path) -> dict[str, float]:
    """Seconds of each phase of one prediction in this process."""
    clock = _Clock()
    import jax

    from ast_jax.inference.detector import Detector
    from ast_jax.inference.predict_files import predict_files
    from ast_jax.training import checkpoints  # noqa: F401  that a load imports

    cli.keep_compiled()
    clock.stop("imports")
    jax.devices()
    compiling: dict[str, float] = {}

    def note(event: str, duration: float, **_: object) -> None:
        name = event.rpartition("/")[2]
        compiling[name] = compiling.get(name, 0.0) + duration

    values = flags.FLAGS
    detector = Detector.load(
        values.workdir, _CATEGORY.value, traced_in=cli.traced_folder()
    )
    clock.stop("configuration, weights")
    jax.monitoring.register_event_duration_secs_listener(note)
    predict_files(detector, values.input, None, output)
    clock.stop("decoding, running, files")
    lowering = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")
    clock.take("tracing, lowering", sum(compiling.get(name, 0.0) for name in lowering))
    clock.take("compiling or its cache", compiling.get("backend_compile_duration", 0.0))
    return clock.seconds


class _Clock:
    """Seconds of phases that follow each other."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, phase: str) -> None:
        """Ends a phase that began when the one before ended."""
        now = time.perf_counter()
        self.seconds[phase], self._last = now - self._last, now

    def take(self, phase: str, seconds: float) -> None:
        """Makes a part of the last phase one of its own."""
        self.seconds["decoding, running, files"] -= seconds
        self.seconds[phase] = seconds


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "input"])
    app.run(main)
