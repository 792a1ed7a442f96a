"""Collections through orbax: bit for bit, on other devices, or not at all."""

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from optimkit import Jit, RandomState, Renamer, StateVar, TrainVar, VarCollection, optimizer
from optimkit.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError
from optimkit.interop import OrbaxCheckpoint, restore_orbax, save_orbax
from optimkit.interop.fingerprint import fingerprints
from tests.io import sharded_state
from tests.io.states import bits, numbers, state
from tests.test_readme import run_page

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def ocp():
    return pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed: the extra orbax")


# Orbax closes its event loop over the reads that are still under way when one has failed; asyncio says so.
orbax_leaves_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def small(value=1.0):
    return VarCollection({"w": TrainVar(jnp.full(3, float(value))), "n": StateVar(jnp.int32(value))})


def program(*args, devices=8, wait=True):
    """Run Python with a number of devices, and return what it writes; or, with ``wait=False``, the process."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, *map(str, args)], cwd=ROOT, env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    if not wait:
        return started
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err[-3000:]
    return out


# --- fingerprints -----------------------------------------------------------------------------------------------------


@given(st.sampled_from(["float32", "bfloat16", "uint8", "int16", "complex64", "bool", "int32"]),
       st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**32 - 1), st.data())  # fmt: skip
def test_each_changed_bit_changes_the_fingerprint(dtype, shape, seed, data):
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    before = fingerprints([raw.view(jnp.dtype(dtype)).reshape(shape)])
    raw[data.draw(st.integers(0, size - 1))] ^= 1 if dtype == "bool" else 1 << data.draw(st.integers(0, 7))
    assert fingerprints([raw.view(jnp.dtype(dtype)).reshape(shape)]) != before


def test_the_fingerprint_knows_places():
    x = np.random.default_rng(0).integers(0, 2**32, (4, 6), np.uint32)
    others = [x[::-1], x[:, ::-1], x.reshape(6, 4).T.reshape(4, 6), np.roll(x, 1), x]
    assert len(set(fingerprints(others))) == len(others)


@pytest.mark.parametrize("x", [
    np.linspace(-1, 1, 16).reshape(8, 2), np.ones((8, 2)) * (1 + 2j), np.arange(16).reshape(8, 2) % 3 == 0,
    np.arange(8).astype(jnp.bfloat16),
], ids=lambda x: x.dtype.name)  # fmt: skip
def test_the_fingerprint_of_shards_is_that_of_the_whole(x):
    mesh = jax.make_mesh((8,), ("d",))
    with jax.enable_x64(True):
        shards = [jax.device_put(x, NamedSharding(mesh, spec)) for spec in (PartitionSpec(), PartitionSpec("d"))]
        whole = jax.device_put(x)
    assert len(set(fingerprints([*shards, whole, x]))) == 1


# --- what comes back --------------------------------------------------------------------------------------------------


def test_without_orbax_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    for call in (lambda: save_orbax(tmp_path, small()), lambda: restore_orbax(tmp_path, small()),
                 lambda: OrbaxCheckpoint(tmp_path)):  # fmt: skip
        with pytest.raises(ImportError, match=r"pip install optimkit\[orbax\]"):
            call()


def test_state_on_one_device_comes_back_bit_for_bit(ocp, tmp_path):
    saved, vc = state(0), state(1)
    save_orbax(tmp_path / "a", saved)
    report = restore_orbax(tmp_path / "a", vc)
    assert bits(vc) == bits(saved)
    assert len(report.names) == len(vc.unique())
    assert report.manifest.names["ref"].names == ("w", "again", "ref")
    assert not any(v.value.committed for v in vc), "a variable that nobody has placed stays free to move"


def test_state_in_shards_comes_back_bit_for_bit_in_the_sharding_of_each_variable(ocp, tmp_path, monkeypatch):
    def on_mesh(n, seed, spec):
        place = NamedSharding(jax.make_mesh((n,), ("d",), devices=jax.devices()[:n]), spec)
        values = {"w": numbers((8, 2), "float32", seed), "b": numbers((8,), "bfloat16", seed),
                  "f": numbers((8, 1), "float8_e4m3fn", seed),
                  "k": jax.random.split(jax.random.key(seed), 8)}  # fmt: skip
        vc = VarCollection({name: StateVar(sharded_state.put(x, place)) for name, x in values.items()})
        return vc + VarCollection({"n": StateVar(sharded_state.put(jnp.int32(seed), place.update(spec=())))})

    save_orbax(tmp_path / "a", on_mesh(8, 1, PartitionSpec("d")))
    for n, spec in ((4, PartitionSpec("d")), (2, PartitionSpec())):
        vc, wanted = on_mesh(n, 0, spec), on_mesh(n, 1, spec)
        assert len(sharded_state.differences(vc, wanted)) == 5
        with monkeypatch.context() as patch:
            patch.setattr(ocp, "RestoreArgs", None)  # nothing goes through the host
            restore_orbax(tmp_path / "a", vc)
        assert sharded_state.differences(vc, wanted) == []


@pytest.mark.slow
def test_state_saved_on_8_devices_comes_back_on_1_2_and_4(ocp, tmp_path):
    layouts = ",".join(sharded_state.LAYOUTS)
    module = ("-W", "error", "-m", "tests.io.sharded_state")
    program(*module, "save", tmp_path, 8, layouts)
    for devices in (1, 2, 4):
        assert program(*module, "restore", tmp_path, devices, layouts, devices=devices) == "restored 25\n"


@pytest.mark.slow
def test_two_processes_save_their_shards_and_two_or_one_restore_them(ocp, tmp_path):
    module, layouts = ("-m", "tests.io.sharded_state"), "replicated,mixed"
    for what in ("save", "restore"):
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = found.getsockname()[1]
        args = (*module, what, tmp_path, 8, layouts, port)
        started = [program(*args, rank, 2, devices=4, wait=False) for rank in range(2)]
        ends = [process.communicate(timeout=300) for process in started]
        assert [process.returncode for process in started] == [0, 0], ends
        assert all(("restored 4\n" in out) is (what == "restore") for out, _ in ends)
    assert program(*module, "restore", tmp_path, 4, layouts, devices=4) == "restored 4\n"


def trained(steps, vc=None):
    """Train on a mesh: dropout-like noise from a generator, donated buffers; return what there is and the step."""
    mesh = jax.make_mesh((8,), ("d",))
    model = VarCollection({"w": TrainVar(jnp.linspace(-1, 1, 16).reshape(8, 2)), "random": RandomState(3)})
    model["w"].assign(jax.device_put(model["w"].value, NamedSharding(mesh, PartitionSpec("d"))))
    model["random"].assign(jax.device_put(model["random"].value, NamedSharding(mesh, PartitionSpec())))
    opt = optimizer.AdamW(VarCollection({"w": model["w"]}), lr=lambda t: 0.1 / t)
    everything = model + opt.vars("opt.")

    def step():
        noise = jax.random.normal(model["random"].split(1)[0], (8, 2))
        opt.step([jnp.sin(model["w"].value) + noise])

    step = Jit(step, everything, donate=True)
    for _ in range(steps):
        step()
    return everything, step


@pytest.mark.slow
def test_training_goes_on_as_if_it_had_not_stopped(ocp, tmp_path):
    straight, _ = trained(5)
    stopped, _ = trained(2)
    with OrbaxCheckpoint(tmp_path) as checkpoint:
        checkpoint.save(stopped, 2, wait=False)
    again, step = trained(0)
    assert OrbaxCheckpoint(tmp_path).restore(again)[0] == 2
    for _ in range(3):
        step()
    assert bits(again) == bits(straight)


def test_names_are_data(ocp, tmp_path):
    names = ["../../up", "/etc/passwd", "ü" * 300, "a/b", "\ud800", "0", "", "line\nbreak", "nul\0", "."]
    saved = VarCollection({name: TrainVar(jnp.full(2, float(i))) for i, name in enumerate(names)})
    save_orbax(tmp_path / "run" / "a", saved)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]
    vc = VarCollection({name: TrainVar(jnp.zeros(2)) for name in reversed(names)})
    restore_orbax(tmp_path / "run" / "a", vc)
    assert bits(vc) == bits(saved)


def test_weights_that_are_no_longer_shared_take_one_array_each_in_its_sharding(ocp, tmp_path):
    w, mesh = TrainVar(jnp.arange(16.0).reshape(8, 2)), jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    save_orbax(tmp_path / "a", VarCollection({"w": w, "tied": w}))
    places = {"w": NamedSharding(mesh, PartitionSpec("d")), "tied": NamedSharding(mesh, PartitionSpec(None, "d"))}
    vc = VarCollection({name: TrainVar(jax.device_put(jnp.zeros((8, 2)), place)) for name, place in places.items()})
    report = restore_orbax(tmp_path / "a", vc)
    assert report.untied == {"tied": "w"}
    assert {name: v.value.sharding for name, v in vc.items()} == places
    Jit(lambda: [v.assign(v + 1) for v in vc], vc, donate=True)()  # the two share no memory
    assert vc["w"].value.tolist() == vc["tied"].value.tolist() == (w + 1).tolist()


def test_an_average_is_not_saved_in_the_place_of_its_variable(ocp, tmp_path):
    vc = small()
    ema = optimizer.ExponentialMovingAverage(vc.subset(TrainVar))
    ema()
    vc["w"].assign(jnp.full(3, 5.0))
    with ema.swapped():
        save_orbax(tmp_path / "a", vc)
        with pytest.raises(CheckpointError, match="'w' holds another value"):
            restore_orbax(tmp_path / "a", vc)
    vc["w"].assign(jnp.zeros(3))
    restore_orbax(tmp_path / "a", vc)
    assert vc["w"].value.tolist() == [5, 5, 5]


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_one_error_says_all_that_does_not_fit_and_nothing_is_restored(ocp, tmp_path):
    w = TrainVar(jnp.ones(3))
    save_orbax(tmp_path / "a", VarCollection({"w": w, "gone": StateVar(jnp.ones(2)), "shape": StateVar(jnp.ones(2)),
                                              "dtype": StateVar(jnp.ones(2))})
               + optimizer.Adam(VarCollection({"w": w})).vars("opt."))  # fmt: skip
    v = TrainVar(jnp.zeros(3))
    vc = VarCollection({"w": v, "new": StateVar(jnp.zeros(2)), "shape": StateVar(jnp.zeros(3)),
                        "dtype": StateVar(jnp.zeros(2, jnp.bfloat16))})  # fmt: skip
    vc += optimizer.Momentum(VarCollection({"w": v})).vars("opt.")
    before = bits(vc)
    with pytest.raises(IncompatibleCheckpointError, match="Nothing was restored") as raised:
        restore_orbax(tmp_path / "a", vc)
    difference = raised.value.difference
    assert "new" in difference.missing
    assert "gone" in difference.unexpected
    assert difference.shapes == {"shape": ("float32[3]", "float32[2]")}
    assert difference.dtypes == {"dtype": ("bfloat16[2]", "float32[2]")}
    assert bits(vc) == before


def test_rename_partial_and_cast_do_what_they_say(ocp, tmp_path):
    w = TrainVar(jnp.array([1.0, 1.2345678, -3.0]))
    save_orbax(tmp_path / "a", VarCollection({"old.w": w, "rest": StateVar(jnp.ones(2))}))
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    half = TrainVar(jax.device_put(jnp.zeros(3, jnp.bfloat16), NamedSharding(mesh, PartitionSpec())))
    vc = VarCollection({"new.w": half, "more": StateVar(jnp.zeros(1))})
    with pytest.raises(IncompatibleCheckpointError, match="cast=True"):
        restore_orbax(tmp_path / "a", vc, rename=Renamer({"old": "new"}), partial=True)
    report = restore_orbax(tmp_path / "a", vc, rename={"old.w": "new.w"}, partial=True, cast=True)
    assert (report.left, report.unexpected) == (("more",), ("rest",))
    assert report.cast == {"new.w": ("bfloat16[3]", "float32[3]")}
    assert half.value.tolist() == w.value.astype(jnp.bfloat16).tolist()
    assert half.value.sharding == NamedSharding(mesh, PartitionSpec())


@pytest.mark.parametrize("sharded", [False, True])
def test_numbers_of_64_bits_stay_or_are_cast(ocp, tmp_path, sharded):
    place = NamedSharding(jax.make_mesh((8,), ("d",)), PartitionSpec("d")) if sharded else None
    with jax.enable_x64(True):
        wide = VarCollection({"x": StateVar(jax.device_put(np.arange(8) / 3, place))})
        again = VarCollection({"x": StateVar(jax.device_put(np.zeros(8), place))})
    save_orbax(tmp_path / "a", wide)
    restore_orbax(tmp_path / "a", again)
    assert bits(again) == bits(wide)
    narrow = VarCollection({"x": StateVar(jax.device_put(jnp.zeros(8), place))})
    with pytest.raises(IncompatibleCheckpointError, match="cast=True"):
        restore_orbax(tmp_path / "a", narrow)
    restore_orbax(tmp_path / "a", narrow, cast=True)
    assert narrow["x"].value.tolist() == (np.arange(8) / 3).astype(np.float32).tolist()
    assert narrow["x"].value.sharding.is_equivalent_to(place or narrow["x"].value.sharding, 1)


# --- what is damaged --------------------------------------------------------------------------------------------------


@orbax_leaves_reads
def test_a_changed_bit_anywhere_is_refused_or_changes_nothing(ocp, tmp_path):
    saved = VarCollection({"w": TrainVar(jax.random.normal(jax.random.key(0), (64, 8))), "n": StateVar(jnp.int32(3)),
                           "k": StateVar(jax.random.key(1))})  # fmt: skip
    save_orbax(tmp_path / "a", saved)
    rng, refused, by_fingerprint = np.random.default_rng(0), 0, 0
    vc = VarCollection({"w": TrainVar(jnp.zeros((64, 8))), "n": StateVar(jnp.int32(0)),
                        "k": StateVar(jax.random.key(0))})  # fmt: skip
    before = bits(vc)
    for path in sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for _ in range(6):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                restore_orbax(tmp_path / "a", vc)
                assert bits(vc) == bits(saved)
                vc.assign([jnp.zeros((64, 8)), jnp.int32(0), jax.random.key(0)])
            except CorruptCheckpointError as error:
                refused += 1
                by_fingerprint += "the array of" in str(error)
                assert bits(vc) == before
        path.write_bytes(whole)
    assert refused > by_fingerprint > 0, "orbax itself reads changed bits of arrays without a word"


@orbax_leaves_reads
def test_a_file_that_is_gone_or_cut_is_refused(ocp, tmp_path):
    save_orbax(tmp_path / "a", small())
    vc = small(0)
    for path in sorted((tmp_path / "a" / "variables").rglob("*")):
        if path.parent.name == "d":
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            try:
                restore_orbax(tmp_path / "a", vc)  # orbax keeps files that it does not read
            except CorruptCheckpointError:
                assert bits(vc) == bits(small(0))
            path.write_bytes(whole)
    (tmp_path / "a" / "variables" / "manifest.ocdbt").unlink()
    with pytest.raises(CorruptCheckpointError):
        restore_orbax(tmp_path / "a", small(0))
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        restore_orbax(tmp_path / "b", small(0))


def edited(folder, change):
    """Change the manifest of a checkpoint."""
    path = folder / "manifest" / "metadata"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


def test_a_manifest_that_was_edited_or_is_of_a_later_version_is_refused(ocp, tmp_path):
    save_orbax(tmp_path / "a", small())
    edited(tmp_path / "a", lambda whole: whole.update(layout=2))
    with pytest.raises(IncompatibleCheckpointError, match="a later version"):
        restore_orbax(tmp_path / "a", small(0))
    edited(tmp_path / "a", lambda whole: (whole.update(layout=1), whole["manifest"]["arrays"][0].update(names=["v"])))
    with pytest.raises(CorruptCheckpointError, match="digest"):
        restore_orbax(tmp_path / "a", VarCollection({"v": TrainVar(jnp.zeros(3)), "n": StateVar(jnp.int32(0))}))


def test_a_checkpoint_of_orbax_that_is_none_of_optimkit_is_refused(ocp, tmp_path):
    with ocp.StandardCheckpointer() as other:
        other.save(tmp_path / "a", {"w": jnp.ones(3)})
    with pytest.raises(CorruptCheckpointError):
        restore_orbax(tmp_path / "a", small(0))


# --- what cannot be saved ---------------------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_named_and_no_folder_is_made(ocp, tmp_path):
    vc = small()

    def inside():
        save_orbax(tmp_path / "a", vc)

    with pytest.raises(CheckpointError, match="'w' holds a tracer"):
        Jit(inside, vc)()
    vc["w"].value.delete()
    with pytest.raises(CheckpointError, match="'w' has been deleted"):
        inside()
    with pytest.raises(CheckpointError, match="not a collection of variables"):
        save_orbax(tmp_path / "a", {"w": jnp.ones(3)})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_not_written_over_another(ocp, tmp_path):
    save_orbax(tmp_path / "a", small(1))
    with pytest.raises(FileExistsError, match="OrbaxCheckpoint"):
        save_orbax(tmp_path / "a", small(2))
    vc = small(0)
    restore_orbax(tmp_path / "a", vc)
    assert bits(vc) == bits(small(1))


DISK_FULL = """
import resource, signal, sys
import jax, jax.numpy as jnp
from optimkit import TrainVar, VarCollection
from optimkit.interop import OrbaxCheckpoint, save_orbax

vc = VarCollection({"w": TrainVar(jax.random.normal(jax.random.key(0), (50000,)))})
checkpoint = OrbaxCheckpoint(sys.argv[1])
checkpoint.save(vc, 0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
attempts = [lambda: checkpoint.save(vc, 1), lambda: (checkpoint.save(vc, 2, wait=False), checkpoint.wait()),
            lambda: save_orbax(sys.argv[1] + "/a", vc)]
for attempt in attempts:
    try:
        attempt()
    except OSError as error:
        print(error.errno, [saved.idx for saved in checkpoint.all()])
resource.setrlimit(resource.RLIMIT_FSIZE, before)
checkpoint.save(vc, 1)
print([saved.idx for saved in checkpoint.all()], checkpoint.restore(vc)[0])
checkpoint.close()
"""


@pytest.mark.slow
def test_a_refused_write_is_an_os_error_and_leaves_the_old_checkpoint(ocp, tmp_path):
    out = program("-c", DISK_FULL, tmp_path, devices=1)
    assert out == "27 [0]\n" * 3 + "[0, 1] 1\n"
    assert sorted(path.name for path in (tmp_path / "orbax").iterdir()) == ["0000000000", "0000000001"]


LEAVE = """
import sys
import jax, jax.numpy as jnp
from optimkit import TrainVar, VarCollection
from optimkit.interop import OrbaxCheckpoint

OrbaxCheckpoint(sys.argv[1]).save(VarCollection({"w": TrainVar(jnp.arange(2e6))}), 1, wait=False)
"""


@pytest.mark.slow
def test_a_program_that_ends_waits_for_the_save_that_is_under_way(ocp, tmp_path):
    program("-c", LEAVE, tmp_path, devices=1)
    vc = VarCollection({"w": TrainVar(jnp.zeros(2000000))})
    assert OrbaxCheckpoint(tmp_path).restore(vc)[0] == 1
    assert float(vc["w"][-1]) == 1999999


# --- numbered checkpoints ---------------------------------------------------------------------------------------------


def test_the_last_checkpoints_are_kept_and_the_last_one_is_restored(ocp, tmp_path):
    with OrbaxCheckpoint(tmp_path, keep_ckpts=2) as checkpoint:
        for idx in (1, 2, 10):
            path = checkpoint.save(small(idx), idx, wait=idx != 2)
        assert [saved.idx for saved in checkpoint.all()] == [2, 10]
        assert checkpoint.latest() == (10, path) == (10, str(tmp_path / "orbax" / "0000000010"))
    vc, reader = small(0), OrbaxCheckpoint(tmp_path)
    assert reader.restore(vc) == (10, path)
    assert bits(vc) == bits(small(10))
    assert reader.restore(vc, 2)[0] == 2
    assert bits(vc) == bits(small(2))
    assert len(reader.report.names) == 2
    with pytest.raises(FileNotFoundError, match="one of 2, 10"):
        reader.restore(vc, 1)


def test_the_checkpoint_that_was_just_saved_is_kept_whatever_its_number(ocp, tmp_path):
    for idx in (5, 3):
        with OrbaxCheckpoint(tmp_path, keep_ckpts=1) as checkpoint:
            checkpoint.save(small(idx), idx)
    assert [saved.idx for saved in checkpoint.all()] == [3]


def test_a_number_is_saved_once(ocp, tmp_path):
    with OrbaxCheckpoint(tmp_path) as checkpoint:
        checkpoint.save(small(1), 7)
        with pytest.raises(FileExistsError, match="there is a checkpoint 7"):
            checkpoint.save(small(2), 7)
        vc = small(0)
        checkpoint.restore(vc)
    assert bits(vc) == bits(small(1))


def test_a_reader_writes_nothing_and_leaves_what_is_being_written(ocp, tmp_path):
    reader = OrbaxCheckpoint(tmp_path / "run")
    assert reader.restore(small()) == (0, "")
    assert reader.latest() is None
    assert list(tmp_path.iterdir()) == []
    half = tmp_path / "run" / "orbax" / "0000000003.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    assert OrbaxCheckpoint(tmp_path / "run").restore(small()) == (0, "")
    assert half.exists()
    with OrbaxCheckpoint(tmp_path / "run") as writer:
        writer.save(small(), 4)
    assert not half.exists()


@pytest.mark.parametrize("keep", [0, -1, True])
def test_a_number_to_keep_that_is_none_is_refused(ocp, keep):
    with pytest.raises(CheckpointError, match="an int >= 1, or None to keep all"):
        OrbaxCheckpoint("run", keep_ckpts=keep)


@pytest.mark.parametrize("idx", [-1, 1.5, "3", None])
def test_a_number_that_is_none_is_refused(ocp, tmp_path, idx):
    with pytest.raises(CheckpointError, match="no number of a checkpoint"):
        OrbaxCheckpoint(tmp_path).save(small(), idx)


def test_an_asynchronous_save_has_the_values_of_its_call(ocp, tmp_path):
    vc = VarCollection({"w": TrainVar(jnp.arange(1e6))})
    before = bits(vc)
    step = Jit(lambda: vc["w"].assign(vc["w"] * 2), vc, donate=True)
    with OrbaxCheckpoint(tmp_path) as checkpoint:
        checkpoint.save(vc, 1, wait=False)
        for _ in range(5):
            step()
        checkpoint.wait()
        assert bits(vc) != before
        checkpoint.restore(vc)
    assert bits(vc) == before


@pytest.mark.slow
def test_the_package_does_not_import_orbax_before_it_is_used(ocp):
    program("-c", "import sys, optimkit.interop.orbax; assert not any(n.startswith('orbax') for n in sys.modules)")
    assert importlib.import_module("optimkit.interop.orbax")


@pytest.mark.slow
def test_the_page_on_sharded_checkpoints_runs(ocp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "how-to" / "sharded-checkpoints.md"
    text = page.read_text(encoding="utf-8")
    assert text.count("```python no-run\n") == 2  # they need orbax
    found = run_page(str(page), text.replace("```python no-run\n", "```python\n"))
    assert found["checkpoint"].latest().idx == 4
