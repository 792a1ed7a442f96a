"""The benchmark of saves runs, and what it promises without a clock holds: the memory that a save takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_benchmark_runs_and_a_save_takes_less_memory_than_the_largest_array(tmp_path):
    out = tmp_path / "save.json"
    command = [sys.executable, "benchmarks/bench_save.py", "--mib", "64", "--repeats", "2", "--folder", str(tmp_path),
               "--json", str(out)]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result, page = json.loads(out.read_text()), out.with_suffix(".md").read_text()
    assert done.stdout.strip() == page.strip()
    assert {way: len(row["us"]["repeats"]) for way, row in result["times"].items()} == {"optimkit": 2, "savez": 2}
    assert 0.9 * 64 * 2**20 < result["nbytes"] < 1.1 * 64 * 2**20
    assert 0 < result["allocated"]["optimkit"] <= 1.1 * result["largest"]
    assert {p.name for p in tmp_path.iterdir()} == {"save.json", "save.md"}
