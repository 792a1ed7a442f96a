"""Values that JSON does not have, as dicts with a name, and back: exact to the last bit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import ConfigError, message

# What is larger is no hyperparameter: it belongs into a variable, and so into a checkpoint.
MOST_ELEMENTS = 65536

FLAGS = {"ASCII": re.ASCII, "IGNORECASE": re.IGNORECASE, "MULTILINE": re.MULTILINE, "DOTALL": re.DOTALL,
         "VERBOSE": re.VERBOSE}  # fmt: skip
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_NARROW = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16",
           "float32", "float64", "complex64", "complex128")  # fmt: skip
_SMALL = ("int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz",
          "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")  # fmt: skip
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(bool if name == "bool" else getattr(jnp, name)) for name in _NARROW + _SMALL if hasattr(jnp, name)
} | {"bool": np.dtype(bool)}


def problem(where: str, path: str, what: str, expected: Any = None, got: Any = None, fix: str = "") -> ConfigError:
    """Return the error about a place in a config or in an object."""
    return ConfigError(message(where, f"{path or 'this'} {what}", expected, got, fix))


# --- writing ----------------------------------------------------------------------------------------------------------


def is_dtype(x: Any) -> bool:
    """Tell whether a value is a dtype: NumPy's, or a class of scalars of NumPy or JAX."""
    scalars = isinstance(x, type) and (issubclass(x, np.generic) or isinstance(getattr(x, "dtype", None), np.dtype))
    return scalars or isinstance(x, np.dtype)


def written(where: str, path: str, x: Any) -> Any:
    """Return a plain value as JSON has it; NotImplemented for a container or an object.

    Raises:
        ConfigError: it is an array that is traced, deleted, of another kind than numbers, or too large.
    """
    if x is None or type(x) in (bool, int, str):
        return x
    if type(x) is float:
        return _float(x)
    if type(x) is complex:
        return {"name": "complex", "value": _element(x)}
    if is_dtype(x):
        return {"name": "dtype", "dtype": _dtype_name(where, path, np.dtype(x))}
    if isinstance(x, np.generic):
        return {"name": "numpy.scalar", "dtype": _dtype_name(where, path, x.dtype), "value": _elements(x)[0]}
    if isinstance(x, np.ndarray | jax.Array):
        return _array(where, path, x)
    if isinstance(x, re.Pattern):
        return _pattern(where, path, x)
    return NotImplemented


def _float(x: float) -> Any:
    return x if math.isfinite(x) else {"name": "float", "value": repr(x)}


def _dtype_name(where: str, path: str, dtype: Any) -> str:
    if DTYPES.get(getattr(dtype, "name", "")) != dtype:
        raise problem(where, path, "is of a dtype that configs do not have.", "one of " + ", ".join(DTYPES), str(dtype),
                      "Keep a seed instead of a random key." if "key" in str(dtype) else "")  # fmt: skip
    return dtype.name


def _array(where: str, path: str, x: Any) -> dict[str, Any]:
    if isinstance(x, jax.core.Tracer):
        raise problem(where, path, "is traced, so that it has no value yet.", "a number or an array", f"{x!r}",
                      "Take the config outside of the function that is compiled or differentiated.")  # fmt: skip
    dtype = _dtype_name(where, path, x.dtype)
    if x.size > MOST_ELEMENTS:
        raise problem(where, path, "is too large for a config.", f"at most {MOST_ELEMENTS:,} elements", f"{x.size:,}",
                      "Keep it in a StateVar, and so in checkpoints.")  # fmt: skip
    kind = "array" if isinstance(x, jax.Array) else "numpy.array"
    return {"name": kind, "dtype": dtype, "shape": list(x.shape), "data": _elements(x)}


def _wide(dtype: Any) -> Any:
    """Return the dtype of NumPy's own that has all values of one."""
    for kind, wide in ((jnp.bool_, np.bool_), (jnp.unsignedinteger, np.uint64), (jnp.signedinteger, np.int64),
                       (jnp.floating, np.float64)):  # fmt: skip
        if jnp.issubdtype(dtype, kind):
            return wide
    return np.complex128


def _elements(x: Any) -> list[Any]:
    """Return the elements of an array, in the order of its rows, as JSON has them."""
    return [_element(e) for e in np.asarray(x).astype(_wide(x.dtype)).ravel().tolist()]


def _element(x: Any) -> Any:
    if isinstance(x, complex):
        return [_element(x.real), _element(x.imag)]
    return x if not isinstance(x, float) or math.isfinite(x) else repr(x)


def _pattern(where: str, path: str, x: re.Pattern[Any]) -> dict[str, Any]:
    known = [name for name, flag in FLAGS.items() if x.flags & flag]
    if not isinstance(x.pattern, str) or re.compile(x.pattern, _flags(known)) != x:
        raise problem(where, path, "is a regular expression that configs do not have.",
                      "one of text, with flags among " + ", ".join(FLAGS), repr(x))  # fmt: skip
    return {"name": "pattern", "pattern": x.pattern, "flags": known}


def _flags(names: list[str]) -> int:
    return sum(FLAGS[name] for name in names)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_float(where: str, path: str, value: Any) -> float:
    """Return the float of a name: ``"nan"``, ``"inf"``, ``"-inf"``."""
    if not isinstance(value, str) or value not in NOT_FINITE:
        raise problem(where, path, "is no such float.", "one of " + ", ".join(map(repr, NOT_FINITE)), repr(value))
    return NOT_FINITE[value]


def read_complex(where: str, path: str, value: Any) -> complex:
    """Return the complex number of a pair of floats."""
    return complex(_number(where, path, value, np.dtype(np.complex128)))


def read_dtype(where: str, path: str, dtype: Any) -> np.dtype[Any]:
    """Return the dtype of a name."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise problem(where, path, "is no dtype.", "one of " + ", ".join(DTYPES), repr(dtype))
    return DTYPES[dtype]


def read_scalar(where: str, path: str, dtype: Any, value: Any) -> np.generic:
    """Return a scalar of NumPy."""
    scalar: Any = _filled(where, path, dtype, [], [value])[()]
    return scalar


def read_numpy(where: str, path: str, dtype: Any, shape: Any, data: Any) -> np.ndarray:
    """Return an array of NumPy."""
    return _filled(where, path, dtype, shape, data)


def read_array(where: str, path: str, dtype: Any, shape: Any, data: Any) -> jax.Array:
    """Return an array of JAX."""
    host = _filled(where, path, dtype, shape, data)
    if jax.dtypes.canonicalize_dtype(host.dtype) != host.dtype:
        raise problem(where, path, f"is of {host.dtype}, which needs 64-bit mode.", None, None,
                      'jax.config.update("jax_enable_x64", True)')  # fmt: skip
    return jnp.array(host)


def _filled(where: str, path: str, name: Any, shape: Any, data: Any) -> np.ndarray:
    dtype = read_dtype(where, path, name)
    ints = isinstance(shape, list | tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not ints or not isinstance(data, list | tuple) or math.prod(shape) != len(data):
        raise problem(where, path, "is no array.", "a shape, and as many elements in a list",
                      f"shape {shape!r}, {len(data) if isinstance(data, list | tuple) else repr(data)} elements",
                      )  # fmt: skip
    wide = np.array([_number(where, path, x, dtype) for x in data], _wide(dtype))
    with np.errstate(all="ignore"):
        exact = wide.astype(dtype)
        same = np.array_equal(exact.astype(wide.dtype), wide, equal_nan=wide.dtype.kind in "fc")
    if not same:
        raise problem(where, path, f"has elements that {dtype} does not have.", f"numbers of {dtype}", f"{data!r}")
    return exact.reshape(shape)


def _number(where: str, path: str, x: Any, dtype: np.dtype[Any]) -> Any:
    """Return an element as a Python number, or raise where it is none of its dtype."""
    wide = np.dtype(_wide(dtype))
    if wide.kind == "c" and isinstance(x, list | tuple) and len(x) == 2:
        float64 = np.dtype(np.float64)
        return complex(_number(where, path, x[0], float64), _number(where, path, x[1], float64))
    if wide.kind == "f" and isinstance(x, str):
        return read_float(where, path, x)
    info = np.iinfo(wide) if wide.kind in "iu" else None
    if wide.kind == "b":
        fits = type(x) is bool
    elif info is not None:
        fits = type(x) is int and int(info.min) <= x <= int(info.max)
    else:
        fits = wide.kind == "f" and (type(x) is float or (type(x) is int and abs(x) <= 2**53))
    if not fits:
        raise problem(where, path, f"has an element that is no number of {dtype}.", str(dtype), repr(x))
    return x


def read_pattern(where: str, path: str, pattern: Any, flags: Any = ()) -> re.Pattern[str]:
    """Return a regular expression."""
    known = isinstance(flags, list | tuple) and all(isinstance(f, str) and f in FLAGS for f in flags)
    if not isinstance(pattern, str) or not known:
        raise problem(where, path, "is no regular expression.", "a string, and flags among " + ", ".join(FLAGS),
                      f"{pattern!r}, {flags!r}")  # fmt: skip
    try:
        return re.compile(pattern, _flags(sorted(set(flags))))
    except (re.error, RecursionError, OverflowError) as error:
        raise problem(where, path, "is no regular expression.", "one that re.compile takes",
                      f"{pattern!r}: {error}") from error  # fmt: skip


READERS: Mapping[str, Callable[..., Any]] = {
    "float": read_float,
    "complex": read_complex,
    "dtype": read_dtype,
    "numpy.scalar": read_scalar,
    "numpy.array": read_numpy,
    "array": read_array,
    "pattern": read_pattern,
}
