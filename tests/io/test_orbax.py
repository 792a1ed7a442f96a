"""Collections through orbax: bit for bit, on other devices, or not at all."""

import json
import socket
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from optimkit import Jit, Renamer, StateVar, TrainVar, VarCollection, optimizer
from optimkit.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError
from optimkit.interop import OrbaxCheckpoint, restore_orbax, save_orbax
from tests.io import sharded_state
from tests.io.sharded_state import program, small
from tests.io.states import bits, numbers, state


@pytest.fixture
def ocp():
    return pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed: the extra orbax")


# Orbax closes its event loop over the reads that are still under way when one has failed; asyncio says so.
orbax_leaves_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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
