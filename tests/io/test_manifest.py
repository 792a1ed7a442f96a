"""The manifest and what is around it: strictness, versions, files of earlier versions, and two files side by side."""

from __future__ import annotations

import io as std_io
import json
import time
import zipfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import StateVar, TrainVar, VarCollection, io, optimizer, rules
from optimkit.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError
from optimkit.io import layout, manifest
from optimkit.io.dtypes import Form
from tests.golden.checkpoints.make_checkpoints import golden_state, text_of
from tests.io.states import bits, known, small, state, unchanged

GOLDEN = Path(__file__).parent.parent / "golden" / "checkpoints"


def saved(vc):
    file = std_io.BytesIO()
    io.save_var_collection(file, vc)
    file.seek(0)
    return file


def signed(change, vc=None):
    """Return a file whose manifest was changed by somebody who knows the format: digest and directory are right."""
    data = saved(vc or known(1)).getvalue()
    with zipfile.ZipFile(std_io.BytesIO(data)) as archive:
        found = [
            layout.Member(m.filename.encode(), m.file_size, m.CRC, m.header_offset) for m in archive.infolist()
        ]  # fmt: skip
        whole = json.loads(archive.read("manifest.json"))
    whole = change(whole)
    text = whole if isinstance(whole, bytes) else json.dumps(whole).encode()
    last = layout.Member(layout.MANIFEST, len(text), zlib.crc32(text), found[-1].offset)
    return std_io.BytesIO(data[: last.offset] + last.local_header + text + layout.directory([*found[:-1], last], text))


def edited(**changes):
    """Return a change of the first array."""
    def change(whole):
        whole["arrays"][0].update(changes)
        return whole

    return change


def test_a_manifest_that_is_signed_again_loads():
    vc = small(2)
    io.load_var_collection(signed(lambda whole: whole), vc)
    assert bits(vc) == bits(small(1))


WRONG = [
    b"", b"{", b"[]", b"3", b'{"format": 1}', b"\xff", b'{"format": 1, "format": 1}', b"[" * 100_000,
    b'{"a": ' * 100_000, b'"' + b"\\" * 100_001, b'{"format": NaN}', b'{"format": 1e999}', b"9" * 5000,
]  # fmt: skip
CHANGES = [
    *({key: x} for key in ("names", "kind", "dtype", "shape", "crc32", "sha256") for x in (None, 3.5, {}, True)),
    {"names": []}, {"names": [1]}, {"names": ["random"]}, {"names": ["w", "w"]}, {"kind": 1}, {"about": 0},
    {"about": -1}, {"about": True}, {"shape": [-1]}, {"shape": [20, 11]}, {"shape": [2**62, 2**62]},
    {"shape": [2**63]}, {"shape": [0, 2**63 - 1, 2**63 - 1]}, {"shape": [1] * 100}, {"shape": ["20", 10]},
    {"shape": [True, 10]}, {"shape": [10, 20]}, {"shape": [200]}, {"dtype": "int32"}, {"dtype": "float64"},
    {"crc32": -1}, {"crc32": 2**32}, {"crc32": 0}, {"sha256": "0" * 64}, {"sha256": "A" * 64}, {"sha256": ""},
    {"extra": 1},
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text[:20]))
def test_what_is_no_manifest_is_refused_at_once(text):
    started = time.process_time()
    with pytest.raises(CorruptCheckpointError):
        io.read_manifest(signed(lambda _: text))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_field_that_lies_is_refused(change):
    """A shape that does not fit the bytes, or another dtype of the same size, does not fit the header before them."""
    target = small(2)
    with unchanged(target), pytest.raises(CheckpointError):
        io.load_var_collection(signed(edited(**change)), target)
    with pytest.raises(CorruptCheckpointError):
        io.verify(signed(edited(**change)))


@pytest.mark.parametrize("change", [
    {"format": 0}, {"format": "1"}, {"format": True}, {"format": None}, {"versions": []}, {"versions": {"jax": 1}},
    {"about": {}}, {"about": [1]}, {"about": [{}]}, {"about": [{"name": 1}]}, {"arrays": {}}, {"arrays": [1]},
    {"more": 1},
], ids=str)  # fmt: skip
def test_a_part_that_lies_is_refused(change):
    with pytest.raises(CorruptCheckpointError):
        io.read_manifest(signed(lambda whole: whole | change))


def test_a_key_that_is_there_twice_is_refused():
    def twice(whole):
        return json.dumps(whole).encode().replace(b'"format": 1', b'"format": 1, "format": 1')

    with pytest.raises(CorruptCheckpointError, match="twice"):
        io.read_manifest(signed(twice))


def test_arrays_that_are_taken_away_or_come_in_another_order_are_refused():
    for change in (lambda arrays: arrays[:-1], lambda arrays: arrays[::-1], lambda arrays: [*arrays, arrays[0]]):
        with pytest.raises(CorruptCheckpointError):
            io.verify(signed(lambda whole, change=change: whole | {"arrays": change(whole["arrays"])}))


def test_an_unknown_dtype_is_refused_by_name():
    with pytest.raises(IncompatibleCheckpointError, match="'float5_e1m3'"):
        io.read_manifest(signed(edited(dtype="float5_e1m3")))


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_later_version_is_refused_with_the_versions():
    change = {"format": io.FORMAT + 1, "versions": {"optimkit": "9.8.7"}, "arrays": "of which nobody knows the form"}
    with pytest.raises(IncompatibleCheckpointError, match=f"format {io.FORMAT + 1}, from optimkit 9.8.7") as caught:
        io.read_manifest(signed(lambda whole: whole | change))
    assert f"format {io.FORMAT} or older" in str(caught.value) and "Update optimkit" in str(caught.value)


def test_an_earlier_version_is_migrated_step_by_step(monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 3)
    monkeypatch.setattr(manifest, "MIGRATIONS", {
        1: lambda whole: whole | {"versions": {"optimkit": "first"}},
        2: lambda whole: whole | {"versions": {"optimkit": whole["versions"]["optimkit"] + " second"}},
    })  # fmt: skip
    found = io.read_manifest(signed(lambda whole: whole | {"format": 1}))
    assert found.versions == {"optimkit": "first second"} and found.format == 1


def test_every_version_has_a_file_and_a_way_to_the_present_one():
    assert sorted(path.name for path in GOLDEN.glob("v*.npz")) == [f"v{n + 1}.npz" for n in range(io.FORMAT)]
    assert set(manifest.MIGRATIONS) == set(range(1, io.FORMAT))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("v*.npz")), ids=lambda path: path.stem)
def test_the_files_of_earlier_versions_load(path):
    vc, owners = golden_state(0)
    assert text_of(vc) != path.with_suffix(".txt").read_text("utf8").splitlines()
    report = io.load_var_collection(path, vc)
    assert text_of(vc) == path.with_suffix(".txt").read_text("utf8").splitlines()
    assert report.changed == {} and report.left == () and report.unexpected == () and owners
    assert vc["(Net).w"] is vc["(Net).tied"]
    found = io.verify(path)
    assert found.about[0]["rule"]["rules"][1]["beta1"] == 0.5 and found.names["(Net).tied"].kind == "TrainVar"


# --- large files ------------------------------------------------------------------------------------------------------


def test_offsets_and_sizes_beyond_32_bits_are_right(tmp_path):
    """A file with holes in the place of its arrays: 8 and 12 GiB, of which the disk has a few kilobytes."""
    forms = [Form("float32", (2**31,)), Form("bfloat16", (3, 2**31)), Form("int8", (5,))]
    crcs = [7, 7, zlib.crc32(layout.npy_header(forms[2]) + bytes(5))]
    entries = tuple(io.Entry((name,), "StateVar", form, crc, "0" * 64)
                    for name, form, crc in zip("abc", forms, crcs, strict=True))  # fmt: skip
    text = io.Manifest(entries, (), {}).encode()
    found = layout.members(forms, crcs, text, zlib.crc32(text))
    with open(tmp_path / "x.npz", "wb") as file:
        for member, form in zip(found, [*forms, None], strict=True):
            file.seek(member.offset)
            file.write(member.local_header + (layout.npy_header(form) if form else text))
        file.seek(found[-1].end)
        file.write(layout.directory(found, text))
    assert io.read_manifest(tmp_path / "x.npz").nbytes == 2**33 + 3 * 2**32 + 5
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert [m.header_offset for m in archive.infolist()] == [m.offset for m in found]
        assert archive.infolist()[1].file_size == 3 * 2**32 + 128 and found[2].offset > 2**34
        assert archive.read("2.npy") == layout.npy_header(forms[2]) + bytes(5)
        assert archive.read("manifest.json") == text


def test_names_beyond_the_limit_are_refused_before_anybody_relies_on_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(manifest, "LARGEST_MANIFEST", 1000)
    with pytest.raises(CheckpointError, match="1,000 bytes"):
        io.save_var_collection(tmp_path / "x.npz", state(1))
    assert list(tmp_path.iterdir()) == []


# --- two files --------------------------------------------------------------------------------------------------------


def test_equal_files_have_no_difference():
    found = io.diff(saved(state(1)), saved(state(1)))
    assert not found and str(found) == f"{len(state(1).unique())} variables equal, bit for bit."


def test_a_diff_shows_names_forms_and_values():
    def vc(x, **more):
        return VarCollection({"same": StateVar(jnp.ones(2)), "x": TrainVar(x)} | more)

    a = vc(jnp.array([0.0, 1, 2]), a=StateVar(jnp.ones(1)), form=StateVar(jnp.ones(3)))
    b = vc(jnp.array([0.0, 1.5, 1]), b=StateVar(jnp.ones(1)), form=StateVar(jnp.int32(3)))
    found = io.diff(saved(a), saved(b))
    assert found and (found.only_first, found.only_second, found.equal) == (("a",), ("b",), 1)
    assert found.forms == {"form": ("float32[3]", "int32[]")} and found.values == {"x": io.Values(2, 3, 1.0)}
    assert "'x': 2 of 3 elements differ, by up to 1" in str(found)


@pytest.mark.parametrize("a, b, differ, largest", [
    (np.float32([0, np.nan]), np.float32([-0.0, np.nan]), 1, 0.0),
    (np.float32([1, np.inf]), np.float32([1, 2]), 1, None),
    (np.int64([2**62, 1]), np.int64([-(2**62), 1]), 1, float(2**63)),
    (np.complex64([1j]), np.complex64([-1j]), 1, 2.0),
    (np.array([True, False]), np.array([False, False]), 1, None),
])  # fmt: skip
def test_values_are_compared_as_bits_and_their_distance_as_numbers(a, b, differ, largest):
    with jax.enable_x64(True):
        files = [saved(VarCollection({"x": StateVar(jnp.asarray(x))})) for x in (a, b)]
    assert io.diff(*files).values == {"x": io.Values(differ, a.size, largest)}


def test_bfloat16_and_keys_are_compared_as_what_they_are():
    files = [saved(VarCollection({"x": StateVar(jnp.asarray([1, x], jnp.bfloat16)), "k": StateVar(jax.random.key(x))}))
             for x in (2, 4)]  # fmt: skip
    assert io.diff(*files).values == {"x": io.Values(1, 2, 2.0), "k": io.Values(1, 1, None)}


def test_a_diff_shows_other_hyperparameters():
    w = TrainVar(jnp.ones(2))
    first, second = (optimizer.Optimizer(VarCollection({"w": w}), rules.Adam(b), lr=0.1) for b in (0.8, 0.9))
    assert list(io.diff(saved(first.vars()), saved(second.vars())).about.values()) == [(0.8, 0.9)]


def test_a_diff_reads_only_what_differs():
    class Counting(std_io.BytesIO):
        count = 0

        def readinto(self, view):
            self.count += len(view)
            return super().readinto(view)

    big = StateVar(jnp.ones(100_000))
    files = [Counting(saved(VarCollection({"big": big, "x": StateVar(jnp.float32(i))})).getvalue()) for i in (1, 2)]
    assert list(io.diff(*files).values) == ["x"] and files[0].count < 20_000
