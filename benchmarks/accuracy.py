"""The detectors' accuracy: real data, real weights, three seeds, one table.

python -m benchmarks.accuracy --output=runs/accuracy --shared=../shared --only=solar

Trains every row as an ordinary run in DIR/<row> (one that is there is not trained
again), and writes DIR/accuracy.md after each. Solar cells come from the package
elpv-dataset; cable_gland and screw, and the 8-bit copy of Lite0's weights, from the
folder `--shared` (data/mvtec_3d_ad, data/mvtec_ad, weights). `--only` is a regular
expression on the rows' names, `--list` prints the commands.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

_OUTPUT = flags.DEFINE_string("output", "runs/accuracy", "Where the runs go.")
_SHARED = flags.DEFINE_string("shared", "../shared", "MVTec's categories and weights.")
_ONLY = flags.DEFINE_string("only", "", "A regular expression on rows' names.")
_LIST = flags.DEFINE_bool("list", False, "Print the commands and end.")
_DATA_DIR = flags.DEFINE_string("data_dir", "~/.cache/ast_jax", "Features of all rows.")
_METHODS = flags.DEFINE_list("methods", "ast,ast_plus", "ast, ast_plus or both.")

DASH = "\N{EN DASH}"  # no such figure
FIGURES = {
    "image AUROC": "image_auroc",
    "AP": "image_ap",
    "AU-PRO 30 %": "au_pro_0.3",
    "AU-PRO 1 %": "au_pro_0.01",
}
HEAD = ("row", "category", *FIGURES, "recall at 5 %", "time")


class Row(NamedTuple):
    """A run: its name, and its changes of the configuration."""

    name: str
    config: str
    changes: dict[str, str]


def rows(shared: Path, methods: list[str]) -> Iterator[Row]:
    """Every row of the table, the shortest first."""
    gland = {
        "dataset.root": str(shared / "data" / "mvtec_3d_ad"),
        "dataset.categories": "('cable_gland',)",
        "calibration.alpha": "0.05",  # on the validation split
    }
    screw = {
        "dataset.root": str(shared / "data" / "mvtec_ad"),
        "dataset.categories": "('screw',)",
    }
    copy = {
        "backbone.name": "tf_efficientnet_lite0",
        "backbone.weights": str(
            shared / "weights" / "tf_efficientnet_lite0.safetensors"
        ),
    }
    lite0, lite2 = (
        {"backbone.name": f"tf_efficientnet_lite{n}.package"} for n in (0, 2)
    )
    for method in methods:
        # The faithful method is every configuration's default.
        variant, plus = ("small", "") if method == "ast" else ("plus", ":plus")
        for label, backbone in (("Lite0", lite0), ("Lite0 in 8 bits", copy)):
            yield Row(
                f"screw, {label}, {method}", f"mvtec_ad:{variant}", screw | backbone
            )
            for mode in ("rgb3d", "rgb", "3d"):
                yield Row(
                    f"cable_gland, {mode}, {label}, {method}",
                    f"mvtec_3d_ad:{variant}",
                    gland | backbone | {"mode": mode},
                )
        for mode in ("rgb3d", "rgb", "3d"):
            yield Row(
                f"synthetic, {mode}, Lite0, {method}",
                f"quickstart{plus}",
                lite0 | {"mode": mode, "dataset.image_size": "768"},
            )
        for label, backbone in (("Lite0", lite0), ("Lite2", lite2)):
            yield Row(f"solar, {label}, {method}", f"solar{plus}", backbone)


def command(row: Row, folder: Path) -> list[str]:
    """The row as a command of train.py."""
    changes = row.changes | {
        "train.seeds": "(0,1,2)",
        "dataset.data_dir": _DATA_DIR.value,
    }
    options = [f"--config.{key}={value}" for key, value in changes.items()]
    start = [sys.executable, "train.py", f"--config={row.config}"]
    return [*start, f"--workdir={folder}", *options]


def train(row: Row, folder: Path) -> None:
    """Trains and evaluates the row, unless that is done; records its time."""
    if (folder / "results.json").exists():
        return
    started = time.monotonic()
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run(
            command(row, folder), stderr=file, stdout=file, check=False
        )
    if done.returncode:
        raise SystemExit(f"error: {row.name}: see {log}")
    minutes = (time.monotonic() - started) / 60
    (folder / "minutes.json").write_text(json.dumps(minutes))


def lines(row: Row, folder: Path) -> Iterator[tuple[str, ...]]:
    """The table's cells, one for each category, in per cent."""
    if not (folder / "results.json").exists():
        return
    results = json.loads((folder / "results.json").read_text())
    minutes = json.loads((folder / "minutes.json").read_text())
    count = len(results["categories"])
    for category, figures in results["categories"].items():
        cells = [_deviation_text(figures, key) for key in FIGURES.values()]
        recall = _recall(folder, category)
        yield row.name, category, *cells, recall, f"{minutes / count:.1f} min"


def _deviation_text(figures: dict, key: str) -> str:
    if figures[key] is None:
        return DASH
    return f"{100 * figures[key]:.1f} ± {100 * figures['std'][key]:.1f}"


def _recall(folder: Path, category: str) -> str:
    """The ensemble's recall, from the report's table of decisions."""
    text = (folder / "report" / "results.md").read_text()
    for line in text.partition("Decisions")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[0] == category:
            return f"{cells[-1]}, false alarms {cells[-2]}"
    return DASH


def main(_: list[str]) -> None:
    """Trains what is missing and writes the table."""
    output = Path(_OUTPUT.value)
    chosen = [
        (row, output / re.sub(r"\W+", "_", row.name))
        for row in rows(Path(_SHARED.value), _METHODS.value)
        if re.search(_ONLY.value, row.name)
    ]
    for row, folder in chosen:
        if _LIST.value:
            print(shlex.join(command(row, folder)))
            continue
        train(row, folder)
        cells = [line for one in chosen for line in lines(*one)]
        table = [HEAD, ("---",) * len(HEAD), *cells]
        text = "".join(f"| {' | '.join(line)} |\n" for line in table)
        (output / "accuracy.md").write_text(text)
        print(text)


if __name__ == "__main__":
    app.run(main)
