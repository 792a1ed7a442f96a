"""What an optimizer tells of numbers that are not finite, when it is asked: it costs a step nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.errors import NonFiniteError, message
from optimkit.rules import SkipNonFinite, lookup


def check_finite(opt: Any, max_consecutive: int | None) -> None:
    """Raise where parameters or memory of an optimizer are not finite, or its guard has left out too many steps.

    Raises:
        NonFiniteError: with the names of variables.
    """
    where = f"{type(opt).__name__}.check_finite()"
    _check_guards(where, opt, max_consecutive)
    params = {name: jnp.sum(~jnp.isfinite(v.value)) for name, v in opt.train_vars.items()}
    # Infinity may be what a rule begins with, as the best loss so far.
    memory = {str(name): jnp.sum(jnp.isnan(v.value)) for name, v in zip(opt._names, opt._state.values(), strict=True)
              if jnp.issubdtype(v.value.dtype, jnp.inexact)}  # fmt: skip
    for name, bad in jax.device_get([*params.items(), *memory.items()]):
        if bad:
            raise NonFiniteError(message(where, f"{name!r} is not finite.", "finite numbers", f"{bad} that are not",
                                         "SkipNonFinite(rule) leaves such steps out."))  # fmt: skip


def _check_guards(where: str, opt: Any, max_consecutive: int | None) -> None:
    guards = [part for _, part in lookup.walk(opt.rule) if isinstance(part, SkipNonFinite)]
    state = list(zip(opt._names, opt._state.values(), strict=True))
    runs = [int(v.value) for name, v in state if name.param is None and name.before[-1:] == ("consecutive",)]
    own = [guard.max_consecutive for guard in guards if guard.max_consecutive is not None]
    limit = max_consecutive if max_consecutive is not None else min(own, default=None)
    if not guards or limit is None or max(runs, default=0) <= limit:
        return
    counts = {name.param: int(v.value) for name, v in state
              if name.param is not None and "non_finite" in (*name.before[-1:], *name.after)}  # fmt: skip
    worst = sorted((name for name, n in counts.items() if n and name), key=lambda name: -counts[name])
    shown = ", ".join(f"{name!r} {counts[name]} times" for name in worst[:8]) or "that of the loss"
    raise NonFiniteError(message(
        where, f"{max(runs)} steps in a row had numbers that are not finite among their gradients.",
        f"at most {limit}", f"so far not finite: {shown}{', ...' if len(worst) > 8 else ''}",
        "Look at the loss and the data of the last batch, and at the learning rate."))  # fmt: skip
