"""Options of the functions in ``compat``: what a rule is put behind for them, and which of them it does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.contrib.rules.newton_schulz import COEFFICIENTS, coefficients_of
from optimkit.errors import HyperparameterError, message
from optimkit.rules import Chain, Rule, Scaled, WeightDecay

Rate = float | Callable[[Any], Any]


def only(where: str, fix: str = "", **options: tuple[Any, Any]) -> None:
    """Raise unless each option, a pair of what is given and what is possible, has the value that is possible."""
    for name, (given, possible) in options.items():
        if given is not possible and (callable(given) or isinstance(given, jax.Array) or given != possible):
            raise HyperparameterError(message(
                f"compat.{where}", f"{name} is not an option of optimkit's rule.", f"{name}={possible!r}",
                f"{name}={given!r}", fix or "Leave it out."))  # fmt: skip


def unmasked(where: str, mask: Any) -> None:
    """Raise where a tree of booleans, or a function that returns one, says which parameters decay."""
    only(where, 'Chain(..., Masked(WeightDecay(rate), r"kernel$")) decays those that match.', mask=(mask, None))


def at(rate: Rate, rule: Rule) -> Rule:
    """Return a rule with a learning rate inside, by which the one outside is multiplied."""
    return rule if not callable(rate) and rate == 1 else Scaled(rule, rate)


def before(decay: float | None, rule: Rule) -> Rule:
    """Return a rule behind an L2 penalty."""
    return Chain(WeightDecay(decay), rule) if decay else rule


def after(decay: float | None, rule: Rule) -> Rule:
    """Return a rule with decoupled decay."""
    return Chain(rule, WeightDecay(decay)) if decay else rule


def warmed(rate: float, steps: int | None) -> Rate:
    """Return a learning rate that rises from 0 within some steps, and stays."""
    return rate if not steps else lambda t: rate * jnp.minimum(t / steps, 1.0)


def seed_of(where: str, key: Any, seed: int | None) -> int:
    """Return the seed that a key was made from; optax takes 0, silently, where neither is given."""
    given = seed if key is None else key
    if isinstance(given, jax.Array):
        data = jax.random.key_data(given) if jnp.issubdtype(given.dtype, jax.dtypes.prng_key) else given
        if data.shape == (2,) and int(data[0]) == 0:
            return int(data[1])
    elif isinstance(given, int):
        return given
    raise HyperparameterError(message(
        f"compat.{where}", "there is no seed for the noise.", "seed=..., or a key that jax.random.key(seed) returned",
        f"{given!r}"))  # fmt: skip


def newton_schulz_of(ns_coeffs: Any, ns_steps: int) -> tuple[str, int]:
    """Return the name of optax's coefficients, and the number of steps; as in optax, those of each step say how many.

    Raises:
        HyperparameterError: they are not among those that are known.

    Example:
        >>> newton_schulz_of((2.0, -1.5, 0.5), 9), newton_schulz_of("dion", 9)
        (('quintic', 9), ('dion', 5))
    """
    presets: dict[Any, Any] = {"standard": coefficients_of("jordan", 1)[0], "dion": coefficients_of("dion", 5)}
    rows = np.asarray(presets.get(ns_coeffs, ()) if isinstance(ns_coeffs, str) else ns_coeffs, np.float64)
    steps = len(rows) if rows.ndim == 2 else ns_steps
    for name in COEFFICIENTS:
        known = np.array(coefficients_of(name, steps) if rows.ndim == 2 else coefficients_of(name, 1)[0])
        if known.shape == rows.shape and np.allclose(known, rows, rtol=1e-6):
            return name, steps
    raise HyperparameterError(message("compat.muon", "ns_coeffs are not among those that are known.",
                                      ["standard", *COEFFICIENTS], repr(ns_coeffs),
                                      "contrib.rules.Muon(coefficients=...) has them by name."))  # fmt: skip
