import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_two_moons_flow_leaves_and_biflow_stays(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "plots" / "moons.png"
    command = [sys.executable, EXAMPLES / "01_two_moons.py", "--out", out, "--steps", "1200", "--frames", "100"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # "  BI-FLOW, eps 0.1 forward   0.085   backward   0.082"
    rows = [line.split(" forward ") for line in printed.splitlines() if " forward " in line]
    forward = {run.strip(): float(rest.split()[0]) for run, rest in rows}
    backward = {run.strip(): float(rest.split()[-1]) for run, rest in rows}
    assert 3 * forward["BI-FLOW, eps 0.1"] < forward["FLOW"]
    assert max(forward["BI-FLOW, eps 0.1"], backward["BI-FLOW, eps 0.1"]) < 0.15
    assert out.stat().st_size > 10_000
