"""Parameters and gradients to run rules on. All of it is NumPy, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any

# Float dtypes that rules are held to. float64 needs 64-bit mode, which the checks switch on and off again.
DTYPES = ("float16", "bfloat16", "float32", "float64")
SHAPES = ((), (0, 3), (1, 2, 1, 3, 1))  # 0-d, empty, rank 5


def parameters(params: Tree = None) -> Tree:
    """Return the parameters that checks use unless others are given: a zero vector, a scalar, a matrix."""
    if params is not None:
        return params
    return {
        "bias": np.zeros(2, np.float32),
        "scale": np.float32(1.5),
        "weight": np.array([[0.5, -1.0, 2.0], [-0.25, 0.125, -3.0]], np.float32),
    }


def arrays(tree: Tree, dtype: Any = None) -> Tree:
    """Return a tree as JAX arrays of their own, of one dtype if one is given."""
    return jax.tree.map(lambda x: jnp.array(np.asarray(x), dtype=dtype), tree)


def reshaped(params: Tree, shapes: Sequence[tuple[int, ...]] = SHAPES) -> Tree:
    """Return a tree of the same names with other shapes, taken in turn."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(3)
    new = [np.float32(rng.normal(size=shapes[i % len(shapes)])) for i in range(len(leaves))]
    return jax.tree.unflatten(structure, new)


def gradients(params: Tree, steps: int = 8, scale: float = 1.0, seed: int = 0) -> list[Tree]:
    """Return normal random gradients, float64, one tree for each step."""
    rng = np.random.default_rng(seed)
    return [jax.tree.map(lambda p: np.asarray(scale * rng.normal(size=np.shape(p))), params) for _ in range(steps)]


def scaled(grads: Tree, factor: float) -> Tree:
    """Return gradients times a number."""
    return jax.tree.map(lambda g: factor * g, grads)


def sparse(grads: Tree, offset: int = 1) -> Tree:
    """Return gradients of which only every third element is not 0."""
    return jax.tree.map(lambda g: np.where((np.arange(g.size).reshape(g.shape) - offset) % 3 == 0, g, 0.0), grads)


def rich(params: Tree, seed: int = 1) -> list[Tree]:
    """Return gradients in which every hyperparameter has something to act on.

    They start far below the usual ``eps``, rise above the usual clipping norms, and fall again, with steps of zeros and
    a sparse step in between. All the while their signs change, and the first element of each array stays far below
    ``eps``.
    """
    scales = [1e-8, 1e-8, 1e-4, 1e-4, 1.0, 1.0, 10.0, 10.0, 0.0, 1.0, 1e-2, 0.0, 1e-1]
    stream = [gradients(params, 1, scale, seed + i)[0] for i, scale in enumerate(scales)]
    return [jax.tree.map(_first_is_tiny, g) for g in [*stream, sparse(stream[9])]]


def _first_is_tiny(g: np.ndarray) -> np.ndarray:
    return np.where(np.arange(g.size).reshape(g.shape) == 0, np.clip(1e-7 * g, -2e-8, 2e-8), g)
