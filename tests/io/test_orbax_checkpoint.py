"""OrbaxCheckpoint: numbered checkpoints of orbax, while training goes on, and when something fails."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from optimkit import Jit, RandomState, TrainVar, VarCollection, optimizer
from optimkit.errors import CheckpointError
from optimkit.interop import OrbaxCheckpoint
from tests.io.sharded_state import ROOT, program, small
from tests.io.states import bits
from tests.test_readme import run_page

pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed: the extra orbax")


def trained(steps):
    """Train on a mesh, with noise from a generator and donated buffers; return all variables and the step."""
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
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    straight, _ = trained(5)
    stopped, _ = trained(2)
    with OrbaxCheckpoint(tmp_path) as checkpoint:
        checkpoint.save(stopped, 2, wait=False)
    again, step = trained(0)
    assert OrbaxCheckpoint(tmp_path).restore(again)[0] == 2
    for _ in range(3):
        step()
    assert bits(again) == bits(straight)


def test_the_last_checkpoints_are_kept_and_the_last_one_is_restored(tmp_path):
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


def test_the_checkpoint_that_was_just_saved_is_kept_whatever_its_number(tmp_path):
    for idx in (5, 3):
        with OrbaxCheckpoint(tmp_path, keep_ckpts=1) as checkpoint:
            checkpoint.save(small(idx), idx)
    assert [saved.idx for saved in checkpoint.all()] == [3]


def test_a_number_is_saved_once(tmp_path):
    with OrbaxCheckpoint(tmp_path) as checkpoint:
        checkpoint.save(small(1), 7)
        with pytest.raises(FileExistsError, match="there is a checkpoint 7"):
            checkpoint.save(small(2), 7)
        vc = small(0)
        checkpoint.restore(vc)
    assert bits(vc) == bits(small(1))


def test_a_reader_writes_nothing_and_leaves_what_is_being_written(tmp_path):
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
def test_a_number_to_keep_that_is_none_is_refused(keep):
    with pytest.raises(CheckpointError, match="an int >= 1, or None to keep all"):
        OrbaxCheckpoint("run", keep_ckpts=keep)


@pytest.mark.parametrize("idx", [-1, 1.5, "3", None])
def test_a_number_that_is_none_is_refused(tmp_path, idx):
    with pytest.raises(CheckpointError, match="no number of a checkpoint"):
        OrbaxCheckpoint(tmp_path).save(small(), idx)


def test_an_asynchronous_save_has_the_values_of_its_call(tmp_path):
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
def test_the_package_does_not_import_orbax_before_it_is_used():
    program("-c", "import sys, optimkit.interop.orbax; assert not any(n.startswith('orbax') for n in sys.modules)")


@pytest.mark.slow
def test_the_page_on_sharded_checkpoints_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "how-to" / "sharded-checkpoints.md"
    text = page.read_text(encoding="utf-8")
    assert text.count("```python no-run\n") == 2  # they need orbax
    found = run_page(str(page), text.replace("```python no-run\n", "```python\n"))
    assert found["checkpoint"].latest().idx == 4


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
def test_a_refused_write_is_an_os_error_and_leaves_the_old_checkpoint(tmp_path):
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
def test_a_program_that_ends_waits_for_the_save_that_is_under_way(tmp_path):
    program("-c", LEAVE, tmp_path, devices=1)
    vc = VarCollection({"w": TrainVar(jnp.zeros(2000000))})
    assert OrbaxCheckpoint(tmp_path).restore(vc)[0] == 1
    assert float(vc["w"][-1]) == 1999999
