"""DP-SGD under the names that objax has for its parts: gradients, and what they cost.

The functions are those of :mod:`optimkit.privacy`, with objax's names and order of arguments. Values of ε are smaller
than objax's: they come from the better of two conversions, and from more orders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimkit.errors import HyperparameterError, message
from optimkit.privacy.accountant import epsilon
from optimkit.privacy.gradient import PrivateGradValues as PrivateGradValues
from optimkit.privacy.renyi import DEFAULT_ORDERS, delta_from_rdp, epsilon_from_rdp, renyi_divergences


def analyze_dp(
    q: float, noise_multiplier: float, steps: int, orders: Sequence[float] = DEFAULT_ORDERS, delta: float = 1e-5
) -> float:
    """Return ε of a training on Poisson-sampled batches: ``privacy.epsilon``, in objax's order of arguments.

    Example:
        >>> round(analyze_dp(q=256 / 60000, noise_multiplier=1.3, steps=3516), 3)
        0.955
    """
    return epsilon(noise_multiplier, q, steps, delta, orders=orders)


def analyze_renyi(q: float, noise_multiplier: float, steps: int, orders: Sequence[float]) -> np.ndarray:
    """Return the RDP for each order: ``privacy.renyi_divergences``, in objax's order of arguments.

    Example:
        >>> analyze_renyi(1.0, 2.0, 8, (2, 4))
        array([2., 4.])
    """
    return renyi_divergences(noise_multiplier, q, steps=steps, orders=orders)


def convert_renyidp_to_dp(
    orders: Sequence[float],
    rdp: Sequence[float],
    target_eps: float | None = None,
    target_delta: float | None = None,
) -> tuple[float, float, float]:
    """Return ε, δ and the order that gives them, for one of the two.

    Raises:
        HyperparameterError: both are given, or none.

    Example:
        >>> epsilon, delta, order = convert_renyidp_to_dp([2.0, 8.0, 32.0], [0.1, 0.4, 1.6], target_delta=1e-5)
        >>> round(epsilon, 4), delta, order
        (1.6141, 1e-05, 8.0)
    """
    if target_delta is not None and target_eps is None:
        found, order = epsilon_from_rdp(orders, rdp, target_delta)
        return found, target_delta, order
    if target_eps is not None and target_delta is None:
        found, order = delta_from_rdp(orders, rdp, target_eps)
        return target_eps, found, order
    raise HyperparameterError(message("convert_renyidp_to_dp", "one of 'target_eps' and 'target_delta' is needed.",
                                      "one", "none" if target_eps is None else "both"))  # fmt: skip
