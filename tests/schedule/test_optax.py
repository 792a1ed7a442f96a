"""The schedules that optax has too have its values, within what float32 leaves of them there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from optimkit.schedule import (
    SGDR,
    Constant,
    Cosine,
    Exponential,
    Interpolated,
    Join,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Warmup,
    WarmupCosine,
)

optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the formulas stand alone")

SCALES = {5: 0.5, 60: 3.0, 90: 0.1}  # optax takes the factor from each value to the next
VALUES = [0.2, 0.1, 0.3, 0.03]
PEERS = {
    "linear": (Linear(0.3, 0.01, 90, begin=5), optax.linear_schedule(0.3, 0.01, 90, 5)),
    "polynomial": (Polynomial(0.3, 0.01, 90, power=2.0), optax.polynomial_schedule(0.3, 0.01, 2.0, 90)),
    "cosine": (Cosine(0.3, 90, final=0.03), optax.cosine_decay_schedule(0.3, 90, alpha=0.1)),
    "exponential": (
        Exponential(0.3, 0.5, 20, staircase=True, floor=0.01),
        optax.exponential_decay(0.3, 20, 0.5, staircase=True, end_value=0.01),
    ),
    "piecewise_constant": (Piecewise(VALUES, list(SCALES)), optax.piecewise_constant_schedule(0.2, SCALES)),
    "piecewise_linear": (
        Interpolated(VALUES, list(SCALES)),
        optax.piecewise_interpolate_schedule("linear", 0.2, SCALES),
    ),
    "piecewise_cosine": (
        Interpolated(VALUES, list(SCALES), "cosine"),
        optax.piecewise_interpolate_schedule("cosine", 0.2, SCALES),
    ),
    "linear_onecycle": (
        OneCycle(0.3, 100, rise=0.3, fall=0.55, shape="linear"),
        optax.linear_onecycle_schedule(100, 0.3),
    ),
    "cosine_onecycle": (OneCycle(0.3, 100), optax.cosine_onecycle_schedule(100, 0.3)),
    "cosine_onecycle_options": (
        OneCycle(0.3, 100, rise=0.4, start_divisor=10.0, final_divisor=50.0),
        optax.cosine_onecycle_schedule(100, 0.3, 0.4, 10.0, 50.0),
    ),
    "warmup_constant": (Warmup(Constant(0.3), 20, start=0.1), optax.warmup_constant_schedule(0.1, 0.3, 20)),
    "warmup_cosine": (
        WarmupCosine(0.3, 20, 90, final=0.03),
        optax.warmup_cosine_decay_schedule(0.0, 0.3, 20, 90, end_value=0.03),
    ),
    "warmup_exponential": (
        Warmup(Exponential(0.3, 0.5, 20, floor=0.05), 15),
        optax.warmup_exponential_decay_schedule(0.0, 0.3, 15, 20, 0.5, end_value=0.05),
    ),
    "sgdr": (
        SGDR(0.4, 20, 2, final=0.02, peak_factor=1.0),
        optax.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": 0.4, "warmup_steps": 0, "decay_steps": n, "end_value": 0.02}
                for n in (20, 40, 80)
            ]
        ),
    ),
    "sgdr_lower": (
        SGDR(0.4, 40, peak_factor=0.5),
        optax.sgdr_schedule(
            [{"init_value": 0.0, "peak_value": p, "warmup_steps": 0, "decay_steps": 40} for p in (0.4, 0.2, 0.1)]
        ),
    ),
    "join": (
        Join([Constant(0.1), Linear(0.1, 0.3, 10)], [5]),
        optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.3, 10)], [5]),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_schedule_agrees_with_optax(name):
    ours, theirs = PEERS[name]
    t = np.arange(120)
    # optax's cosine is 1 + cos in float32, off by eps of its largest value where it is small
    np.testing.assert_allclose(ours(t), jax.jit(jax.vmap(theirs))(t), rtol=1e-5, atol=1e-7)
