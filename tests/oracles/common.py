"""What all oracles share: float64 copies, the learning rate of a step, and a norm that is a plain loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Params = Mapping[str, np.ndarray]
LearningRate = float | Sequence[float]
Trajectory = list[dict[str, np.ndarray]]


def copies(params: Params) -> dict[str, np.ndarray]:
    """Return float64 copies of the arrays; 0-d arrays stay arrays, so that elements can be assigned."""
    return {name: np.array(p, dtype=np.float64) for name, p in params.items()}


def zeros(params: Params) -> dict[str, np.ndarray]:
    """Return float64 zeros of the shapes of the arrays."""
    return {name: np.zeros(np.shape(p), dtype=np.float64) for name, p in params.items()}


def elements(x: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Yield the index of each element: one for a 0-d array, none for an empty one."""
    return iter(np.ndindex(x.shape))


def lr_at(lr: LearningRate, t: int) -> float:
    """Return the learning rate of step t = 1, 2, ...: the constant, or entry t - 1 of the sequence."""
    return float(lr[t - 1] if isinstance(lr, Sequence | np.ndarray) else lr)


def norm(*arrays: np.ndarray) -> float:
    """Return the Euclidean norm of all elements of all arrays together."""
    total = 0.0
    for x in arrays:
        for i in elements(x):
            total += float(x[i]) ** 2
    return math.sqrt(total)
