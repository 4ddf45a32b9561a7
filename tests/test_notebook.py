"""docs/quickstart.ipynb runs, and shows what it says."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_the_notebook_runs_and_finds_the_defect(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where features are cached
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    prediction, detector = names["prediction"], names["detector"]
    assert prediction.anomalous and prediction.regions
    assert "data:image/png;base64," in prediction._repr_html_()
    scores = detector.score([*names["new"], names["defective"]])
    assert scores.argmax() == len(names["new"])
    assert (tmp_path / "runs" / "flange" / "report" / "index.html").exists()
    assert (tmp_path / "flange.stablehlo").exists()
