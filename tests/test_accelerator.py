"""The command that measures an accelerator runs every part, also on a CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_part_gives_figures(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--quick"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}", "--minutes=20"],
        cwd=ROOT,
        timeout=1500,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )
    assert done.returncode == 0
    results = json.loads((tmp_path / "accelerator.json").read_text())
    for part, result in results.items():
        if result.get("reason", "").startswith("stopped after"):
            assert part not in ("machine", "parity")  # a busy machine's limit
            continue
        figures = {row["figure"]: row["value"] for row in result["rows"]}
        if part == "parity":
            right = [v for k, v in figures.items() if "bfloat16" not in k]
            assert max(right) < 1e-4
        elif part != "pytorch" or importlib.util.find_spec("torch"):
            assert None not in figures.values()
        if part == "devices":
            assert figures["losses on all devices against one's, relative"] < 1e-2
        if part == "profile":
            assert 0 <= figures["idle share of the device"] <= 1
    assert "| machine | device | cpu |" in (tmp_path / "accelerator.md").read_text()


def test_time_that_is_over_is_said(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--quick"]
    subprocess.run(
        [*command, f"--output={tmp_path}", "--minutes=0"], cwd=ROOT, check=True
    )
    results = json.loads((tmp_path / "accelerator.json").read_text())
    assert {r["reason"] for r in results.values()} == {
        "not begun: the minutes are over"
    }
