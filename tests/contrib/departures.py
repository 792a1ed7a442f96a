"""Where optax.contrib does something else than a paper, and how far from it that is: for docs/contrib_page.py.

Each rule, made by ``optimkit.contrib.compat``, and optax's transformation take 30 steps in float64 on the same
gradients, and are compared with the oracle of the paper. ``test_every_rule.py`` measures the figures again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import pure, rules
from optimkit.contrib import compat
from optimkit.rules import Rule, Scaled
from optimkit.testing import streams
from optimkit.testing.compare import distances
from optimkit.testing.oracle import rounded
from tests.oracles import contrib_adam_variants, contrib_galore, contrib_momo, contrib_muon

STEPS = 30
MATRIX = {"weight": np.arange(12.0).reshape(3, 4) / 10 - 0.5}


@dataclasses.dataclass(frozen=True)
class Departure:
    """A rule, the transformation that differs from it, and why.

    Attributes:
        ours: the call of ``compat``, with an optax transformation's arguments.
        rule: the rule that it makes.
        theirs: the call of optax; a function of its module.
        oracle: the paper's way, a function of parameters and gradients.
        why: who departs from what.
        inputs: what both get besides gradients.
        params: where they start.
    """

    ours: str
    rule: Rule
    theirs: Callable[[Any], Any]
    oracle: Callable[[Any, Any], Any]
    why: str
    inputs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Any] = dataclasses.field(default_factory=streams.parameters)

    def figures(self, optax: Any) -> dict[str, float]:
        """Return how far ours and theirs end from the paper, relative to a parameter's size and the length of its way.

        JAX must be in 64-bit mode.
        """
        params = {n: np.asarray(p, np.float64) for n, p in self.params.items()}
        grads = [rounded(g) for g in streams.gradients(params, STEPS)]
        init, apply = pure(self.rule, 1.0)
        tx = self.theirs(optax)

        def ours(g: Any, state: Any, p: Any) -> Any:
            return apply(g, state, p, **self.inputs)

        def theirs(g: Any, state: Any, p: Any) -> Any:
            updates, state = tx.update(g, state, p, **self.inputs)
            return state, optax.apply_updates(p, updates)

        paper = self.oracle(params, grads)
        found = {}
        for name, start, step in (("optimkit", init, ours), ("optax", tx.init, theirs)):
            *_, far = distances(_way(start, step, params, grads), paper, params)
            found[name] = float(f"{max(float(x.max()) for x in far.values()):.1e}")
        return found


def _way(init: Any, step: Any, params: Any, grads: Any) -> list[dict[str, np.ndarray]]:
    now = {n: jnp.asarray(p) for n, p in params.items()}
    state, way, step = init(now), [], jax.jit(step)
    for g in grads:
        state, now = step({n: jnp.asarray(x) for n, x in g.items()}, state, now)
        way.append({n: np.asarray(x) for n, x in now.items()})
    return way


DEPARTURES = [
    Departure(
        "acprop(0.1)",
        compat.acprop(0.1),
        lambda o: o.contrib.acprop(0.1),
        lambda p, g: contrib_adam_variants.oracle_acprop(p, g, 0.1, eps=1e-16),
        "the paper compares a gradient with the mean that it is part of, g − μ; optax with the one before it, which "
        "makes s larger by 1/β₁² and steps shorter by β₁. At the first step, for which the paper has no divisor, optax "
        "moves by the gradient itself, as the authors' code does; ours stands still.",
    ),
    Departure(
        "galore(0.1, 1, scale=0.5)",
        compat.galore(0.1, 1, scale=0.5),
        lambda o: o.contrib.galore(0.1, 1, scale=0.5),
        lambda p, g: contrib_galore.oracle_galore(p, g, 0.1, rank=1, scale=0.5),
        "the paper and the authors' code project the shorter side of a matrix; optax the longer one, so that its inner "
        "rule sees another gradient, and its projection is larger. It also projects matrices that are no longer than "
        "the rank, and embeddings, and keeps whatever signs a decomposition gives.",
    ),
    Departure(
        "mechanize(Scaled(Momentum(0.9), 0.1))",
        compat.mechanize(Scaled(rules.Momentum(0.9), 0.1)),
        lambda o: o.contrib.mechanize(o.sgd(0.1, 0.9)),
        lambda p, g: contrib_momo.oracle_mechanic(p, g, 0.1, s_init=1e-6, momentum=0.9),
        "optax adds eps to |h| in m, so that it moves at the first step, by s_init; it begins with s at s_init, where "
        "the paper has 0, cuts h to ±m, and keeps a reward below 0, which the paper cuts.",
    ),
    Departure(
        "momo(weight_decay=0.1)",
        compat.momo(weight_decay=0.1),
        lambda o: o.contrib.momo(weight_decay=0.1),
        lambda p, g: contrib_momo.oracle_momo(p, g, 1.0, weight_decay=0.1),
        "the paper's step and the authors' code divide all of x − τ d by 1 + lr · weight_decay; optax divides x alone.",
        {"value": 1.0},
    ),
    Departure(
        "momo_adam(0.1, weight_decay=0.1)",
        compat.momo_adam(0.1, weight_decay=0.1),
        lambda o: o.contrib.momo_adam(0.1, weight_decay=0.1),
        lambda p, g: contrib_momo.oracle_momo_adam(p, g, 0.1, weight_decay=0.1),
        "as momo.",
        {"value": 1.0},
    ),
    Departure(
        "muon(0.1)",
        compat.muon(0.1),
        lambda o: o.contrib.muon(0.1),
        lambda p, g: contrib_muon.oracle_muon(p, g, 0.1, ns_eps=1e-8),
        "the article, its code and PyTorch average gradients from 0 without a correction; optax corrects, which with "
        "`nesterov` gives the newest gradient less weight at first. Without `nesterov` both do the same.",
        params=MATRIX,
    ),
]


def measured(optax: Any) -> dict[str, Any]:
    """Return all figures, and the versions that they are of."""
    with jax.enable_x64(True):
        rows = {row.ours: row.figures(optax) for row in DEPARTURES}
    return {"versions": {"optax": optax.__version__, "jax": jax.__version__}, "steps": STEPS, "rows": rows}
