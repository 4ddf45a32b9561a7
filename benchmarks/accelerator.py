"""Measures a new machine with one command, the most important parts first.

    python -m benchmarks.accelerator --output=DIR --minutes=8 [--quick]

Describes the machine, then measures part after part (`accelerator_parts.py`), each in
its own process with a time limit. Writes DIR/accelerator.json and DIR/accelerator.md
after every part, so that the results remain if the machine is lost early. PyTorch is
measured too if it supports the device. With --quick every part is small; all take 90 s
on two cores.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from ast_jax.files import write_json, write_text
from benchmarks.accelerator_parts import PARTS, Row
from benchmarks.side_by_side import QUICK

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
_MINUTES = flags.DEFINE_float("minutes", 8, "For all parts together.")
_PART = flags.DEFINE_string("part", None, "Of the command's own processes.")
_LEAST_S = 5.0  # less time is not worth a start


def main(_: list[str]) -> None:
    """Runs all parts; a child process runs one of them."""
    if _PART.value:
        answer, sys.stdout = (
            sys.stdout,
            sys.stderr,
        )  # libraries may print lines of their own
        logging.set_verbosity(logging.WARNING)
        print(json.dumps(PARTS[_PART.value].measure()), file=answer)
        return
    output, end = Path(_OUTPUT.value), time.monotonic() + 60 * _MINUTES.value
    results: dict[str, dict[str, Any]] = {}
    for name, part in PARTS.items():
        left = end - time.monotonic()
        if left < _LEAST_S:
            results[name] = {"reason": "not begun: the minutes are over"}

        else:
            print(f"{name}: {part.question}", flush=True)
            results[name] = run(name, min(left, part.limit_s))
        write_json(output / "accelerator.json", results)
        write_text(output / "accelerator.md", table(results))
    print(table(results))


def run(name: str, limit_s: float) -> dict[str, Any]:
    """Runs a part in its own process; returns "rows" and "seconds", or the "reason"."""
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.accelerator", f"--part={name}"]
    try:
        done = subprocess.run(
            [*command, *sys.argv[1:]],
            stdout=subprocess.PIPE,
            text=True,
            timeout=limit_s,
            env=environment() | os.environ,
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"stopped after {limit_s:.0f} s"}
    seconds = round(time.monotonic() - start, 1)
    if done.returncode:
        return {"reason": f"ended with status {done.returncode}", "seconds": seconds}
    return {"rows": json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}


def environment() -> dict[str, str]:
    """The parts' environment variables, added to the caller's."""
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # several use the device
    if QUICK.value:  # in small, compiling is most of the time
        shared["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    return shared


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results so far in Markdown, a line per figure, or the reason if it lacks."""
    lines = ["| part | figure | value | aim |", "|---|---|---|---|"]
    for name, result in results.items():
        for row in map(Row.from_dict, result.get("rows", ())):
            lines.append(f"| {name} | {row.figure} | {row.text()} | {row.aim} |")
        if reason := result.get("reason"):
            lines.append(f"| {name} | {reason} | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    flags.mark_flag_as_required("output")
    app.run(main)
