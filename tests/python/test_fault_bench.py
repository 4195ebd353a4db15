"""A part of the fault bench (`make faults`), spread over all causes, against the figures that are asked of the whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "faults" / "bench.py"


@pytest.mark.timeout(600)
def test_a_part_of_the_fault_bench(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCH, "--quick", "--json", tmp_path / "faults.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row["marks"] for row in json.loads((tmp_path / "faults.json").read_text())]
    faulty, clean = [marks for marks in rows if "verdict" in marks], [marks for marks in rows if "alarm" in marks]
    assert len(faulty) >= 45 and len(clean) >= 20

    def share(key):
        values = [marks[key] for marks in faulty if marks[key] is not None]
        return sum(values) / len(values)

    assert not any(marks["alarm"] for marks in clean)
    assert not any(marks["false_name"] for marks in faulty)
    assert share("verdict") >= 0.99
    assert share("site") >= 0.97
    assert share("cause") >= 0.95
    assert share("all") >= 0.9
