"""``python -m optimkit``: what it prints, its JSON, and its exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from optimkit import TrainRef, TrainVar, VarCollection, optimizer
from optimkit.__main__ import main
from optimkit.io import Checkpoint


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    w = TrainVar(jnp.ones((2, 3)))
    vc = VarCollection({"w": w, "tied": TrainRef(w)})
    opt = optimizer.Adam(vc, beta2=0.99)
    with Checkpoint(folder, None, verbose=False) as checkpoint:
        for step in range(2):
            checkpoint.save(vc + opt.vars(), step)
            opt(0.1, [jnp.ones((2, 3))])
    return folder


def run(*arguments):
    out = io.StringIO()
    status = main([str(x) for x in arguments], out)
    return status, out.getvalue()


def test_inspect_shows_each_variable_once_and_the_rule_that_wrote_it(logdir):
    status, text = run("inspect", logdir)
    assert status == 0
    assert "0000000001.npz" in text and text.count("float32[2, 3]") == 3
    assert '"beta2": 0.99' in text and "w is tied too" in text and "train_vars" not in text
    data = json.loads(run("inspect", logdir, "--json")[1])
    assert data["variables"][0]["names"][:2] == ["w", "tied"] and data["variables"][0]["shape"] == [2, 3]
    assert data["about"][0]["rule"]["beta2"] == 0.99
    assert data["bytes"] == sum(v["bytes"] for v in data["variables"]) == 3 * 24 + 4


def test_verify_tells_a_whole_file_from_a_damaged_one(logdir, tmp_path):
    path = logdir / "ckpt" / "0000000000.npz"
    assert run("verify", path) == (0, f"{path}: whole. 4 variables, 76 B, all checksums right.\n")
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    status, text = run("verify", tmp_path)
    assert status == 1 and "damaged" in text
    assert json.loads(run("verify", tmp_path, "--json")[1])["error"] == "CorruptCheckpointError"


def test_diff_says_what_differs_and_by_how_much(logdir):
    old, new = (logdir / "ckpt" / f"000000000{i}.npz" for i in range(2))
    status, text = run("diff", old, new)
    assert status == 1 and "'w': 6 of 6 elements differ, by up to 0.1" in text and "'(Adam).t'" in text
    data = json.loads(run("diff", old, new, "--json")[1])
    assert not data["equal"] and data["difference"]["values"]["w"]["differ"] == 6
    assert run("diff", new, logdir)[0] == 0
    assert json.loads(run("diff", new, logdir, "--json")[1])["equal"] is True


def test_what_is_not_there_is_said_and_fails(tmp_path):
    assert run("inspect", tmp_path)[0] == 1 and "no checkpoint in" in run("inspect", tmp_path)[1]
    assert run("verify", tmp_path / "none.npz")[0] == 1
    with pytest.raises(SystemExit) as caught:
        run("inspect")
    assert caught.value.code == 2


@pytest.mark.slow
def test_it_runs_as_a_module(logdir):
    done = subprocess.run([sys.executable, "-m", "optimkit", "verify", str(logdir)], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2], env={**os.environ, "JAX_PLATFORMS": "cpu"})  # fmt: skip
    assert done.returncode == 0 and "whole" in done.stdout
