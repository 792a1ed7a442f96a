"""Files that somebody has crafted are refused, in bounded time and memory, and nothing in them is executed.

Fault table: 39 (lengths, overlaps, offsets, duplicates, deep JSON, overflows), 40 (pickles, zip bombs), 45 (names that
look like paths). In most of these files all checksums are right: whoever lies can compute them, too.
"""

from __future__ import annotations

import io as std_io
import itertools
import json
import pickle
import re
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import StateVar, TrainVar, VarCollection, io
from optimkit.errors import CorruptCheckpointError, IncompatibleCheckpointError
from optimkit.io import layout
from tests.io.states import bits, numbers, unchanged
from tests.io.test_fuzz import saved

SECONDS = 2.0  # of this process alone; the slowest takes a tenth
PER_BYTE, CONSTANT = 64, 1 << 18  # of memory; a small JSON value is an object of Python


def victim(w: Any = None, n: Any = None) -> VarCollection:
    """Return the variables that the attacks are aimed at."""
    w, n = numbers((4, 3), "float32", 7) if w is None else w, numbers((6,), "int8", 8) if n is None else n
    return VarCollection({"w": TrainVar(w), "n": StateVar(n)})


GOOD = saved(victim())


def members_of(data: bytes) -> list[layout.Member]:
    """Return the members of a good checkpoint."""
    with zipfile.ZipFile(std_io.BytesIO(data)) as archive:
        infos = archive.infolist()
    return [layout.Member(i.filename.encode(), i.file_size, i.CRC, i.header_offset) for i in infos]


def with_manifest(text: bytes, data: bytes = GOOD) -> bytes:
    """Return a checkpoint with another manifest, and with the digest and the directory that belong to it."""
    *arrays, old = members_of(data)
    new = layout.Member(layout.MANIFEST, len(text), zlib.crc32(text), old.offset)
    return data[: old.offset] + new.local_header + text + layout.directory([*arrays, new], text)


def manifest() -> dict[str, Any]:
    """Return the manifest of the good checkpoint."""
    with zipfile.ZipFile(std_io.BytesIO(GOOD)) as archive:
        return json.loads(archive.read("manifest.json"))


def lie(**fields: Any) -> bytes:
    """Return a checkpoint whose manifest says something else of the first array."""
    whole = manifest()
    whole["arrays"][0] |= fields
    return with_manifest(json.dumps(whole).encode())


def whole_lie(**fields: Any) -> bytes:
    """Return a checkpoint whose manifest says something else of the file."""
    return with_manifest(json.dumps(manifest() | fields).encode())


def without(key: str, of_array: bool) -> bytes:
    """Return a checkpoint whose manifest lacks a key."""
    whole = manifest()
    del (whole["arrays"][0] if of_array else whole)[key]
    return with_manifest(json.dumps(whole).encode())


def text_of(changed: Callable[[str], str]) -> bytes:
    """Return a checkpoint whose manifest is changed as text."""
    return with_manifest(changed(json.dumps(manifest())).encode())


SHAPES = [
    [3, 4], [12], [4, 3, 1], [4, 3, 0], [2**31, 2**31], [2**62, 4], [2**63], [2**64], [0, 2**62], [-4, -3], [-1],
    [4.0, 3], [True, 12], [None], ["4", 3], [[4, 3]], [10**4000], [1] * 1000, [4, 3] + [1] * 61, [2] * 63, "43", 12,
    None, {"0": 4}
]  # fmt: skip
DTYPES = [
    "int32", "float64", "float16", "complex64", "key<threefry2x32>", "key<rbg>", "key<evil>", "object", "O", "<f4",
    "str", "S4", "V4", "void", "datetime64[s]", "float128", "", "__import__('os')", "bfloat16", "int4", 4, None,
    ["float32"], [["w", "float32"]]
]  # fmt: skip
# What an array's other fields may not be. (That 'about' may be None, and 'kind' any text, is taken into account.)
VALUES = ["", "0" * 64, "G" * 64, -1, 2**32, 2**64, 10**100, 0.5, None, [], {}, [[]], [1], True]


def lies() -> Iterator[tuple[str, bytes]]:
    """Yield manifests that do not say the truth; the arrays are as they were."""
    yield from ((f"the shape {str(shape)[:40]}", lie(shape=shape)) for shape in SHAPES)
    yield from ((f"the dtype {dtype!r}", lie(dtype=dtype)) for dtype in DTYPES)
    for field in ("sha256", "crc32", "names", "kind", "about"):
        for value in VALUES:
            if not (field == "kind" and isinstance(value, str)) and not (field == "about" and value is None):
                yield f"{field} {str(value)[:20]!r}", lie(**{field: value})
    yield "about a configuration that is not there", lie(about=0)
    yield "a name twice", lie(names=["w", "w"])
    yield "the name of another array", lie(names=["n"])
    yield "the entry of another array", whole_lie(arrays=manifest()["arrays"][::-1])
    yield "an array too few", whole_lie(arrays=manifest()["arrays"][:1])
    yield "an array too many", whole_lie(arrays=manifest()["arrays"] + [manifest()["arrays"][0] | {"names": ["x"]}])
    yield "no arrays", whole_lie(arrays=[])
    for value in (0, -1, 10**100, 1.0, "1", True, None, [1]):
        yield f"format {value!r:.20}", whole_lie(format=value)
    yield from ((f"{key} {value!r}", whole_lie(**{key: value})) for key in ("arrays", "versions", "about")
                for value in (None, 1, "x", [1], [[]], [None], {"a": 1}, [{}], [{"name": 1}]))  # fmt: skip
    yield from ((f"no {key}", without(key, False)) for key in manifest())
    yield from ((f"no {key} of an array", without(key, True)) for key in manifest()["arrays"][0])
    yield "a key too many", whole_lie(evil=1)
    yield "a key of an array too many", lie(evil=1)


def texts() -> Iterator[tuple[str, bytes]]:
    """Yield manifests that are no JSON, or JSON that is meant to cost much."""
    many = 10_000
    for name, text in {
        "nothing": b"", "null": b"null", "a list": b"[]", "a number": b"1", "a string": b'"x"',
        "UTF-16": "{}".encode("utf-16"), "a byte order mark": b"\xef\xbb\xbf{}", "no text": b"\xff\xfe",
        "a zero": b"\0", "two values": b"{}{}",
        "an open string": b'{"format', "deep lists": b"[" * many,
        "deep lists that end": b"[" * many + b"]" * many,
        "deep objects": b'{"a":' * many, "brackets in strings": b'"' + b"[" * many, "backslashes": b'"' + b"\\" * many,
        "quotes": b'"' * many, "a long number": b"1" * many, "NaN": b"NaN", "wide": b"[" + b"1," * many + b"1]",
        "keys": b"{" + b",".join(b'"%d":0' % i for i in range(many // 10)) + b"}",
    }.items():  # fmt: skip
        yield name, with_manifest(text)
    yield "a key twice", text_of(lambda text: text.replace('"format"', '"format": 1, "format"', 1))
    for value in ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 70 + "]" * 70):
        yield f"{value[:9]} in a configuration", text_of(
            lambda text, value=value: text.replace('"about": []', f'"about": [{{"name": {value}}}]', 1))  # fmt: skip
    for depth in (70, many):
        deep = '"about": [{"name": "x", "rule": ' + "[" * depth + "]" * depth + "}]"
        yield f"configurations {depth} deep", text_of(lambda text, deep=deep: text.replace('"about": []', deep, 1))


def fields() -> Iterator[tuple[str, bytes]]:
    """Yield archives in which one number of the zip format is at an end of its range."""
    directory, values = GOOD.index(b"PK\1\2"), (0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
    for at, size, value in itertools.product(range(directory, len(GOOD) - 8, 8), (2, 4, 8), values):
        if value < 256**size:
            yield f"{size} bytes at {at}: {value}", GOOD[:at] + value.to_bytes(size, "little") + GOOD[at + size :]
    for i, name in enumerate((b"0.npy", b"1.npy", b"manifest.json")):
        local = GOOD.index(name) - 30
        for at, value in itertools.product(range(4, 30, 2), (b"\0\0", b"\1\0", b"\xff\xff")):
            at += local
            yield f"the header of member {i}, {at - local}: {value}", GOOD[:at] + value + GOOD[at + 2 :]
    npy = GOOD.index(b"\x93NUMPY")
    for value in (0, 1, 117, 119, 2**16 - 1):
        yield f"{value} bytes of a header of npy", GOOD[: npy + 8] + value.to_bytes(2, "little") + GOOD[npy + 10 :]


class ExecutedError(Exception):
    """What a pickle of ours raises when it is loaded."""


def execute() -> None:
    raise ExecutedError


class Evil:
    def __reduce__(self):
        return execute, ()


def archive(write: Callable[[zipfile.ZipFile], None], data: bytes = b"", mode: Any = "w", **options: Any) -> bytes:
    """Return a zip archive, or a changed one."""
    file = std_io.BytesIO(data)
    with warnings.catch_warnings(), zipfile.ZipFile(file, mode, **options) as made:
        warnings.simplefilter("ignore")  # of two members of one name
        write(made)
    return file.getvalue()


def savez(save: Any, **arrays: Any) -> bytes:
    file = std_io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def strangers() -> Iterator[tuple[str, bytes]]:
    """Yield files of other programs, and of other people."""
    w = np.ones((4, 3), np.float32)
    bomb, names = bytes(40 << 20), json.dumps(["w", "n"])
    with zipfile.ZipFile(std_io.BytesIO(GOOD)) as good:
        parts = {name: good.read(name) for name in good.namelist()}

    def again(archive: zipfile.ZipFile) -> None:
        for name, data in parts.items():
            archive.writestr(name, data)

    yield "numpy's", savez(np.savez, w=w)
    yield "objax's", savez(np.savez, names=np.array(["w", "n"]), **{"0": w, "1": np.ones(6, np.int8)})
    yield "numpy's, compressed", savez(np.savez_compressed, w=w)
    yield "a zip bomb", archive(lambda a: a.writestr("manifest.json", bomb), compression=zipfile.ZIP_DEFLATED)
    yield "a zip bomb of numpy", archive(lambda a: a.writestr("0.npy", bomb), compression=zipfile.ZIP_DEFLATED)
    yield "the same members by another program", archive(again)
    yield "the same members, compressed", archive(again, compression=zipfile.ZIP_DEFLATED)
    yield "one member more", archive(lambda a: a.writestr("2.npy", parts["0.npy"]), GOOD, "a")
    yield "one member twice", archive(lambda a: a.writestr("0.npy", parts["0.npy"]), GOOD, "a")
    yield "a path for a name", archive(lambda a: a.writestr("../../evil.npy", parts["0.npy"]), GOOD, "a")
    yield "an absolute path", archive(lambda a: a.writestr("/tmp/evil.npy", parts["0.npy"]), GOOD, "a")
    yield "two checkpoints", GOOD + GOOD
    yield "after a program", b"#!/bin/sh\n" + GOOD
    yield "a comment longer than it is", GOOD + b" "
    yield "an empty archive", b"PK\5\6" + bytes(18)
    yield "a pickle", pickle.dumps(Evil())
    yield "a pickle after its magic", GOOD[:100] + pickle.dumps(Evil())
    yield "an array of objects", savez(np.savez, w=np.array([Evil()], object))
    yield "safetensors", len(names).to_bytes(8, "little") + names.encode()
    yield "safetensors, huge", (2**63).to_bytes(8, "little") + names.encode()
    yield "a page of HTML", b"<!DOCTYPE html><title>404</title>" * 100
    yield "zeros", bytes(len(GOOD))
    yield "nothing", b""


def refused(name: str, data: bytes, target: VarCollection) -> None:
    """Require that a file is refused, with nothing assigned, in bounded time and memory."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with unchanged(target), pytest.raises((CorruptCheckpointError, IncompatibleCheckpointError)) as caught:
            io.load_var_collection(std_io.BytesIO(data), target)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(str(caught.value)) < 100_000, name
    assert peak <= PER_BYTE * len(data) + CONSTANT, name
    assert time.process_time() - start < SECONDS, name


GALLERY = {"lies": lies, "texts": texts, "fields": fields, "strangers": strangers}


@pytest.mark.parametrize("attacks", GALLERY)
def test_a_crafted_file_is_refused_in_bounded_time_and_memory(attacks):
    target = victim(numbers((4, 3), "float32", 1), numbers((6,), "int8", 2))
    for name, data in GALLERY[attacks]():
        if data != GOOD:
            try:
                refused(name, data, target)
            except BaseException as error:
                error.add_note(f"the attack: {name}")
                raise


def test_an_honest_manifest_is_accepted():
    """What is refused in the forgeries is the lie: the same forger, telling the truth, is believed."""
    target = victim(numbers((4, 3), "float32", 1), numbers((6,), "int8", 2))
    io.load_var_collection(std_io.BytesIO(whole_lie()), target)
    assert bits(target) == bits(victim())


def test_a_file_of_a_later_format_is_refused_with_both_versions():
    with pytest.raises(IncompatibleCheckpointError, match=r"format 1 or older[\s\S]*format 2"):
        io.load_var_collection(std_io.BytesIO(whole_lie(format=2)), victim())


@pytest.mark.parametrize("fields, w", [
    ({"shape": [3, 4]}, jnp.zeros((3, 4))), ({"shape": [12]}, jnp.zeros(12)),
    ({"dtype": "int32"}, jnp.zeros((4, 3), int)), ({"shape": [4, 3, 1]}, jnp.zeros((4, 3, 1))),
    ({"shape": [8, 3], "dtype": "float16"}, jnp.zeros((8, 3), jnp.float16)),
    ({"shape": [6], "dtype": "key<threefry2x32>"}, None),
])  # fmt: skip
def test_a_lie_about_an_array_is_found_by_variables_that_it_is_meant_for(fields, w):
    """The variables fit what the manifest says; the array's own header and its digest do not."""
    if w is None:
        w = jax.random.split(jax.random.key(0), 6)
    target = VarCollection({"w": StateVar(w), "n": StateVar(jnp.zeros(6, jnp.int8))})
    with unchanged(target), pytest.raises(CorruptCheckpointError):
        io.load_var_collection(std_io.BytesIO(lie(**fields)), target)


def test_arrays_that_change_places_are_found():
    """Two arrays of one form, each with the bits, headers and checksums of a good file, but not its own."""
    vc = VarCollection({name: TrainVar(numbers((5,), "float32", i)) for i, name in enumerate("ab")})
    data = saved(vc)
    first, second = (data.index(np.asarray(v.value).tobytes()) for v in vc)
    a, b = data[first : first + 20], data[second : second + 20]
    swapped = data[:first] + b + data[first + 20 : second] + a + data[second + 20 :]
    assert len(swapped) == len(data)
    with unchanged(vc), pytest.raises(CorruptCheckpointError):
        io.load_var_collection(std_io.BytesIO(swapped), vc)


def test_our_pickle_would_run():
    """The attack is one: NumPy, told to trust it, executes it."""
    data = savez(np.savez, w=np.array([Evil()], object))
    with pytest.raises(ExecutedError):
        np.load(std_io.BytesIO(data), allow_pickle=True)["w"]


NAMES = ["../../evil", "/etc/passwd", "a/b", "C:\\evil", "..", ".", "", "a\0b", "0.npy", "manifest.json", "ü" * 150,
         "語" * 100, "x" * 300, "\n", "\ud800", "'; drop table", "💥"]  # fmt: skip


def test_names_that_look_like_paths_are_data(tmp_path):
    vc = VarCollection({name: StateVar(jnp.float32(i)) for i, name in enumerate(NAMES)})
    (inner := tmp_path / "a" / "b").mkdir(parents=True)
    io.save_var_collection(inner / "x.npz", vc)
    target = VarCollection({name: StateVar(jnp.float32(-1)) for name in NAMES})
    io.load_var_collection(inner / "x.npz", target)
    assert bits(target) == bits(vc)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["a", "a/b", "a/b/x.npz"]


def test_io_imports_nothing_that_executes_what_it_reads():
    source = "".join(path.read_text("utf8") for path in Path(io.__file__).parent.glob("*.py"))
    imported = set(re.findall(r"^\s*(?:import|from)\s+(\w+)", source, re.MULTILINE))
    assert not imported & {"pickle", "marshal", "shelve", "dill", "copyreg"}
    assert not re.search(r"\b(eval|exec|compile|__import__|import_module)\(", source.replace("re.compile(", ""))
