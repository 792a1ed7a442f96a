"""Newton-Schulz steps: a matrix with the singular vectors of another one and singular values near 1, by products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.contrib.rules.matrices import product

Triple = tuple[float, float, float]

JORDAN: Triple = (3.4445, -4.7750, 2.0315)
QUINTIC: Triple = (2.0, -1.5, 0.5)
# Algorithm 1 of Amsel et al., as it is printed. Its code divides all of them but the last by powers of 1.01, against
# rounding, and the matrix by 1.01 times its norm.
PRINTED: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def shrunk(abc: Triple, factor: float) -> Triple:
    """Return the coefficients of ``p(x / factor)``.

    Example:
        >>> shrunk((8.0, 8.0, 32.0), 2.0)
        (4.0, 1.0, 1.0)
    """
    a, b, c = abc
    return a / factor, b / factor**3, c / factor**5


SAFE = [shrunk(abc, 1.01) for abc in PRINTED[:-1]]

# For each name a, b and c of the first steps, of all that follow, and of the last ones.
COEFFICIENTS: dict[str, tuple[tuple[Triple, ...], Triple, tuple[Triple, ...]]] = {
    "jordan": ((), JORDAN, ()),
    "quintic": ((), QUINTIC, ()),
    "cubic": ((), (1.5, -0.5, 0.0), ()),
    "polar_express": ((shrunk(SAFE[0], 1.01), *SAFE[1:]), PRINTED[-1], ()),
    "dion": (
        ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046)),
        (2.8366, -3.0525, 1.2012),
        (),
    ),
    "deepseek": ((), JORDAN, (QUINTIC, QUINTIC)),
}


def coefficients_of(name: str, steps: int) -> tuple[Triple, ...]:
    """Return a, b and c of each of a number of steps.

    Example:
        >>> coefficients_of("deepseek", 3)
        ((3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5), (2.0, -1.5, 0.5))
    """
    first, usual, last = COEFFICIENTS[name]
    return ((*first, *[usual] * steps)[: max(steps - len(last), 0)] + last)[-steps:]


def newton_schulz(x: jax.Array, coefficients: tuple[Triple, ...], eps: Any, dtype: str) -> jax.Array:
    """Return a matrix with the singular vectors of ``x`` and singular values near 1; zeros for zeros.

    ``X ← a X + b X Xᵀ X + c (X Xᵀ)² X`` for each triple, from ``x / (‖x‖_F + eps)``.

    Args:
        x: the matrix.
        coefficients: a, b and c of each step.
        eps: added to the norm.
        dtype: "float32" for the dtype of ``x``, "bfloat16".

    Example:
        >>> newton_schulz(jnp.diag(jnp.array([3.0, 0.5])), ((1.5, -0.5, 0.0),) * 20, 0.0, "float32").round(3)
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    tall = x.shape[0] > x.shape[1]
    unit = numerics.safe_divide(x.T if tall else x, numerics.norm(x) + eps)
    narrow = jnp.dtype(dtype) if dtype == "bfloat16" else x.dtype
    table = jnp.asarray(np.array(coefficients), narrow)

    def step(y: jax.Array, abc: jax.Array) -> tuple[jax.Array, None]:
        gram = product(y, y.T)
        return abc[0] * y + product(abc[1] * gram + abc[2] * product(gram, gram), y), None

    done = jax.lax.scan(step, unit.astype(narrow), table)[0].astype(x.dtype)
    return done.T if tall else done
