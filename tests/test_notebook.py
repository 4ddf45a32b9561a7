"""docs/quickstart.ipynb runs, and its outputs are as its text says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CHECKS = """
import json
prediction, detector = names["prediction"], names["detector"]
scores = detector.score([*names["new"], names["defective"]])
print(json.dumps({
    "anomalous": prediction.anomalous,
    "regions": len(prediction.regions),
    "shows itself": "data:image/png;base64," in prediction._repr_html_(),
    "worst": int(scores.argmax()) == len(names["new"]),
}))
"""


@pytest.mark.slow
def test_the_notebook_runs_and_finds_the_defect(tmp_path):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    # In a process of its own, on one device, as its reader runs it.
    script = f"names = {{}}\nfor cell in {code!r}:\n    exec(cell, names)\n{CHECKS}"
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}  # features are cached there
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | home,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("regions") >= 1
    assert all(found.values()), found
    assert (tmp_path / "runs" / "flange" / "report" / "index.html").exists()
    assert (tmp_path / "flange.stablehlo").exists()
