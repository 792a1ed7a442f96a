"""Rows 34 and 36 to 50 of the fault table: checkpoints. What one row shows once, tests/io shows exhaustively."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimkit.io
from optimkit import RandomState, StateVar, TrainVar, VarCollection, optimizer
from optimkit.errors import (
    CheckpointError,
    CheckpointLockedError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
)
from optimkit.io import Checkpoint, files, load_var_collection, save_var_collection
from tests.fault_table.test_01_17_steps import refuses
from tests.shell import bits, two_grads, two_params, unchanged


def trained(steps=1):
    vc = two_params()
    opt = optimizer.Adam(vc)
    for _ in range(steps):
        opt(0.1, two_grads())
    return vc + opt.vars()


def saved(vc):
    file = io.BytesIO()
    save_var_collection(file, vc)
    return file.getvalue()


def refuses_file(data, error, says, vc):
    refuses(error, ValueError, says, lambda: load_var_collection(io.BytesIO(data), vc), vc)


def strays(folder):
    return [p for p in Path(folder).rglob("*") if p.name.startswith(files.PREFIX) and p.suffix == files.SUFFIX]


def test_row_34(tmp_path):
    """64 bits switched on or off between save and load: ``IncompatibleCheckpointError`` that says ``cast=True``, which
    converts; nothing is converted silently."""
    with jax.enable_x64(True):
        data = saved(VarCollection({"w": TrainVar(jnp.full(2, 1.1, jnp.float64))}))
    vc = VarCollection({"w": TrainVar(jnp.zeros(2))})
    refuses_file(data, IncompatibleCheckpointError, ["'w'", "float64", "float32", "cast=True"], vc)
    load_var_collection(io.BytesIO(data), vc, cast=True)
    assert vc["w"].dtype == jnp.float32 and vc["w"].value[0] == jnp.float32(1.1)


def test_row_36(tmp_path):
    """A process killed while it saves: the checkpoint before it loads, and the next writer removes what was left.
    (At random moments and at every system call: tests/io/test_crash.py.)"""
    script = (
        "import os, signal, sys; import jax.numpy as jnp, optimkit\n"
        "from optimkit.io import Checkpoint, files\n"
        "vc = optimkit.VarCollection({'w': optimkit.TrainVar(jnp.ones(8))})\n"
        "checkpoint = Checkpoint(sys.argv[1], 3)\n"
        "checkpoint.save(vc, 1)\n"
        "vc['w'].assign(jnp.zeros(8))\n"
        "files.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.save(vc, 2)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env={**os.environ, "JAX_PLATFORMS": "cpu"},
                          cwd=Path(__file__).parents[2], capture_output=True)  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert strays(tmp_path)
    vc = VarCollection({"w": TrainVar(jnp.zeros(8))})
    with Checkpoint(tmp_path, 3) as checkpoint:
        assert checkpoint.restore(vc)[0] == 1
        assert vc["w"].value.tolist() == [1.0] * 8
        checkpoint.save(vc, 2)
    assert not strays(tmp_path)


def test_row_37():
    """A file cut short, empty, or with bytes too many: ``CorruptCheckpointError``."""
    vc = trained()
    data = saved(vc)
    for damaged in (b"", data[:10], data[: len(data) // 2], data[:-1], data + b"\0", b"\0" + data):
        refuses_file(damaged, CorruptCheckpointError, [], vc)


def test_row_38():
    """A single bit that is not as it was, anywhere: ``CorruptCheckpointError``. (Every bit: tests/io/test_fuzz.py.)"""
    vc = trained()
    data = saved(vc)
    for place in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        refuses_file(bytes(damaged), CorruptCheckpointError, [], vc)


def test_row_39():
    """A header made to harm, with a huge length, a lie about a shape, or nested without end:
    ``CorruptCheckpointError``, before anything of that size is read. (More: tests/io/test_fuzz.py.)"""
    vc = VarCollection({"w": TrainVar(jnp.ones(2))})
    for manifest in (b"[" * 100_000, b'{"format": 1, "arrays": [{"shape": [4611686018427387904, 64]}]}', b"null"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("manifest.json", manifest)
        refuses_file(file.getvalue(), CorruptCheckpointError, [], vc)


class Harm:
    """What a pickle can do: call any function."""

    def __reduce__(self):
        return os.abort, ()


def test_row_40():
    """A pickle, or a file that unpacks to far more than it is: refused by its first bytes or its sizes; no code of it
    runs, and ``optimkit.io`` does not import pickle."""
    vc = VarCollection({"w": TrainVar(jnp.ones(2))})
    refuses_file(pickle.dumps(Harm()), CorruptCheckpointError, [], vc)
    objects = io.BytesIO()
    np.savez(objects, np.array([Harm()], object))
    refuses_file(objects.getvalue(), CorruptCheckpointError, [], vc)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("manifest.json", b" " * 10_000_000)
    refuses_file(bomb.getvalue(), CorruptCheckpointError, [], vc)
    for path in Path(optimkit.io.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve"} & {*names, getattr(node, "module", None)}, path


def test_row_41():
    """Another model, variables missing, added or renamed: one ``IncompatibleCheckpointError`` with all differences, and
    nothing is assigned; ``rename=`` maps."""
    data = saved(trained())
    vc = VarCollection({"w": TrainVar(jnp.zeros(4)), "c": TrainVar(jnp.zeros(()))})
    refuses_file(data, IncompatibleCheckpointError, ["'w'", "'c'", "'b'", "float32[4]", "float32[3]"], vc)
    vc = VarCollection({"kernel": TrainVar(jnp.zeros(3)), "bias": TrainVar(jnp.zeros(()))})
    source = saved(two_params())
    load_var_collection(io.BytesIO(source), vc, rename={"w": "kernel", "b": "bias"})
    assert vc["kernel"].value.tolist() == [1.0, -2.0, 0.5]


def test_row_42():
    """A file of a newer format, or of another algorithm: refused, with both versions or both rules; older formats load
    (tests/golden/checkpoints)."""
    vc = two_params()
    opt = optimizer.Momentum(vc)
    refuses_file(saved(trained()), IncompatibleCheckpointError, ["mu"], vc + opt.vars())
    for golden in sorted((Path(__file__).parents[1] / "golden" / "checkpoints").glob("*.npz")):
        assert optimkit.io.verify(golden)


def test_row_43(tmp_path):
    """Two writers to one folder: the second fails at once with ``CheckpointLockedError``, which says who holds it; the
    lock of a dead process holds nothing."""
    script = (
        "import sys; import jax.numpy as jnp, optimkit\n"
        "from optimkit.io import Checkpoint\n"
        "c = Checkpoint(sys.argv[1], 3); c.save(optimkit.VarCollection({'w': optimkit.TrainVar(jnp.ones(2))}), 1)\n"
        "print('saved', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=Path(__file__).parents[2])  # fmt: skip
    vc = VarCollection({"w": TrainVar(jnp.zeros(2))})
    try:
        assert other.stdout.readline() == b"saved\n"
        with pytest.raises(CheckpointLockedError, match=str(other.pid)), Checkpoint(tmp_path, 3) as checkpoint:
            checkpoint.save(vc, 2)
    finally:
        other.kill()
        other.communicate()
    with Checkpoint(tmp_path, 3) as checkpoint:
        checkpoint.save(vc, 2)
        assert [s.idx for s in checkpoint.all()] == [1, 2]


@pytest.mark.parametrize("call", ["open_new", "write_all", "flush", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_row_44(call, number, tmp_path, monkeypatch):
    """A full disk, no permission, a disk that fails: an ``OSError`` with its number and the path; the checkpoint before
    is whole, and nothing is left over. (At each system call: tests/io/test_faults.py.)"""
    assert hasattr(files, call), dir(files)
    vc = trained()
    with Checkpoint(tmp_path, 3) as checkpoint:
        checkpoint.save(vc, 1)

        def fails(*_, **__):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch, unchanged(vc), pytest.raises(OSError, match=r"\.npz|\.tmp") as caught:
            patch.setattr(files, call, fails)
            checkpoint.save(vc, 2)
        assert caught.value.errno == number
        assert [s.idx for s in checkpoint.all()] == [1] and not strays(tmp_path)
        with unchanged(vc):
            checkpoint.restore(vc)


def test_row_45():
    """Variables with names like paths, of other scripts, of 300 characters: names are data, and come back as they
    were."""
    names = ["../../etc/passwd", "/absolute", "C:\\x", "ünïcödé 変数", "a" * 300, "", "0.npy", "manifest.json"]
    vc = VarCollection({name: TrainVar(jnp.full(2, i, jnp.float32)) for i, name in enumerate(names)})
    data, before = saved(vc), bits(vc)
    for v in vc:
        v.assign(jnp.zeros(2) - 1)
    load_var_collection(io.BytesIO(data), vc)
    assert bits(vc) == before
    assert all("/" not in n and ".." not in n for n in zipfile.ZipFile(io.BytesIO(data)).namelist())


def test_row_46(tmp_path):
    """A save over the file that was just loaded: the bytes are right, for nothing stays mapped."""
    vc = trained()
    path = tmp_path / "state.npz"
    save_var_collection(path, vc)
    load_var_collection(path, vc)
    with unchanged(vc):
        save_var_collection(path, vc)
        load_var_collection(path, vc)


def test_row_47(tmp_path, monkeypatch):
    """An asynchronous save: it has the values of the call, whatever changes after it; what goes wrong is raised by the
    next save or by ``wait()``."""
    vc = two_params()
    wanted = bits(vc)
    with Checkpoint(tmp_path, 3) as checkpoint:
        checkpoint.save(vc, 1, wait=False)
        optimizer.SGD(vc)(0.1, two_grads())
        checkpoint.wait()
        checkpoint.restore(vc)
        assert bits(vc) == wanted

        def fails(*_, **__):
            raise OSError(errno.ENOSPC, "no space")

        with monkeypatch.context() as patch:
            patch.setattr(files, "replace", fails)
            checkpoint.save(vc, 2, wait=False)
            with pytest.raises(OSError, match="no space"):
                checkpoint.wait()
        checkpoint.wait()


@pytest.mark.skipif(jax.device_count() < 2, reason="one device only; tests/conftest.py asks for eight")
def test_row_48():
    """Restored on other devices: each variable takes what it gets to where it lies. (From eight devices to one, two and
    four, with orbax: tests/io/test_orbax.py.)"""
    mesh = jax.make_mesh((jax.device_count(),), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    value = np.arange(2 * jax.device_count(), dtype=np.float32)
    data = saved(VarCollection({"w": TrainVar(jax.device_put(value, split))}))
    single = VarCollection({"w": TrainVar(jnp.zeros(value.shape))})
    load_var_collection(io.BytesIO(data), single)
    np.testing.assert_array_equal(single["w"].value, value)
    sharded = VarCollection({"w": TrainVar(jax.device_put(np.zeros_like(value), split))})
    load_var_collection(io.BytesIO(data), sharded)
    assert sharded["w"].value.sharding == split
    np.testing.assert_array_equal(sharded["w"].value, value)


def test_row_50():
    """Random keys, of ``jax.random.key`` or raw: they come back with their kind."""
    vc = VarCollection({"new": StateVar(jax.random.key(3)), "raw": RandomState(7),
                        "other": StateVar(jax.random.key(3, impl="rbg"))})  # fmt: skip
    data = saved(vc)
    other = VarCollection({"new": StateVar(jax.random.key(0)), "raw": RandomState(0),
                           "other": StateVar(jax.random.key(0, impl="rbg"))})  # fmt: skip
    load_var_collection(io.BytesIO(data), other)
    for name in ("new", "other"):
        assert other[name].value.dtype == vc[name].value.dtype
        assert jax.random.uniform(other[name].value) == jax.random.uniform(vc[name].value)
    assert other["raw"].value.tolist() == vc["raw"].value.tolist()
    swapped = VarCollection({"new": StateVar(jax.random.key(0, impl="rbg"))})
    refuses_file(saved(VarCollection({"new": vc["new"]})), IncompatibleCheckpointError, ["'new'", "rbg"], swapped)


def test_a_checkpoint_is_no_place_for_a_tracer():
    """A save while a program is traced is refused by name: there is no value to save."""
    vc = two_params()
    with pytest.raises(CheckpointError, match="'w'"):
        optimkit.Jit(lambda: save_var_collection(io.BytesIO(), vc), vc)()


def test_the_manifest_is_json():
    """Anybody can read what a checkpoint has."""
    with zipfile.ZipFile(io.BytesIO(saved(trained()))) as z:
        name = next(n for n in z.namelist() if "manifest" in n)
        text = z.read(name)
    assert "(Adam)[w].mu" in json.dumps(json.loads(text[text.index(b"{") :]))
