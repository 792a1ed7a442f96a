"""Differentially private rules. The kit's gradients are those of a batch: each is taken for the one example of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import rules
from optimkit.contrib.rules import DPSGD, DPAggregate
from optimkit.rules.base import Step, Tree
from tests.oracles import contrib_private
from tests.rule_rows.adam_variants import MEAN

NOISE = {
    "check_names_and_order_do_not_matter": "the noise of a parameter is drawn by its name",
}
DRAW = {"max_norm": ("log", 1e-2, 1e2), "noise_multiplier": ("one of", 0.0, 0.1, 2.0)}


class OneExample(rules.Wrapper):
    """Gives gradients the axis of examples."""

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the inner rule does on a batch of one."""
        return self.inner.update(step.replace(grads=jax.tree.map(lambda g: jnp.asarray(g)[None], step.grads)), state)


ROWS: dict[str, dict[str, Any]] = {
    "DPAggregate": {
        "rule": OneExample(DPAggregate(1.0, 0.5, seed=0)),
        "oracle": contrib_private.oracle_of_one,
        "draw": DRAW,
        "expected_failures": NOISE,
    },
    "DPSGD": {
        "rule": OneExample(DPSGD(1.0, 0.5, seed=0, momentum=0.9)),
        "oracle": contrib_private.oracle_of_one,
        "draw": {**DRAW, "momentum": MEAN},
        "expected_failures": NOISE,
    },
}
