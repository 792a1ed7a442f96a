"""Reductions over devices, or over any axis that a function is mapped over.

They work inside ``jax.vmap``, ``jax.shard_map`` and ``jax.pmap`` with an axis of that name, on arrays, variables and
trees of them, such as the list of gradients::

    opt(lr, functional.parallel.pmean(grads))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial as partial
from typing import Any

import jax

from optimkit.errors import StructureError, message
from optimkit.functional.ops import unwrap_tree


def pmean(x: Any, axis_name: str = "device") -> Any:
    """Return the mean over the devices, of each leaf of a tree.

    Raises:
        StructureError: the caller is not mapped over an axis of this name.

    Example:
        >>> import jax.numpy as jnp
        >>> jax.vmap(pmean, axis_name="device")(jnp.array([1.0, 2.0, 6.0]))
        Array([3., 3., 3.], dtype=float32)
    """
    return _reduce(jax.lax.pmean, x, axis_name)


def psum(x: Any, axis_name: str = "device") -> Any:
    """Return the sum over the devices; arguments and errors as of :func:`pmean`.

    Example:
        >>> import jax.numpy as jnp
        >>> jax.vmap(psum, axis_name="device")(jnp.array([1.0, 2.0, 6.0]))
        Array([9., 9., 9.], dtype=float32)
    """
    return _reduce(jax.lax.psum, x, axis_name)


def pmax(x: Any, axis_name: str = "device") -> Any:
    """Return the maximum over the devices; arguments and errors as of :func:`pmean`.

    Example:
        >>> import jax.numpy as jnp
        >>> jax.vmap(pmax, axis_name="device")(jnp.array([1.0, 2.0, 6.0]))
        Array([6., 6., 6.], dtype=float32)
    """
    return _reduce(jax.lax.pmax, x, axis_name)


def pmin(x: Any, axis_name: str = "device") -> Any:
    """Return the minimum over the devices; arguments and errors as of :func:`pmean`.

    Example:
        >>> import jax.numpy as jnp
        >>> jax.vmap(pmin, axis_name="device")(jnp.array([1.0, 2.0, 6.0]))
        Array([1., 1., 1.], dtype=float32)
    """
    return _reduce(jax.lax.pmin, x, axis_name)


def _reduce(collective: Callable[..., Any], x: Any, axis_name: str) -> Any:
    try:
        return collective(unwrap_tree(x), axis_name)
    except NameError as error:  # what JAX raises for an axis that it does not know
        name = collective.__name__
        raise StructureError(message(
            f"parallel.{name}", f"nothing is mapped over an axis called {axis_name!r} here.", None, None,
            f"Map the function: jax.vmap(f, axis_name={axis_name!r}), or jax.shard_map on a mesh that has the axis."
        )) from error  # fmt: skip
