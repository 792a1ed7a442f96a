"""What every oracle has to be, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def takes_every_shape_and_keeps_its_inputs(oracle: Callable[..., Any]) -> None:
    """Raise unless an oracle returns float64 copies of each step, for scalars, empty and rank 5 arrays alike."""
    shapes = {"scalar": (), "empty": (0, 3), "rank5": (1, 2, 1, 2, 1)}
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    grads = [{name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}] * 3
    for rate in (0.1, [0.1, 0.1, 0.1]):
        trajectory = oracle(params, grads, rate)
        for name, shape in shapes.items():
            assert [(step[name].shape, step[name].dtype) for step in trajectory] == [(shape, np.float64)] * 3
            assert np.all(params[name] == 1.0) and np.all(grads[0][name] == 0.5)
        values = [float(step["scalar"]) for step in trajectory]
        assert len({1.0, *values}) == 4, "each step is a copy of its own"
