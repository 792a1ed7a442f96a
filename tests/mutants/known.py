"""Mutants that the kit does not reject, by name: those that are no mistakes, each with a proof, and those that are."""

from __future__ import annotations

# The same program in other words.
EQUIVALENT: dict[str, str] = {
    "numerics.cast option_ignored: "
    "if isinstance(x, jax.Array) and x.dtype == dtype and (not x.weak_type): return x -> pass": (
        "What is left converts the array to the dtype that it has, which returns it as it is: only time is lost."
    ),
    "averaged.Lookahead.update not_cast: widened(delta, step.params) -> delta": (
        "It widens displacements of rules that return narrow ones. The inner rule is Momentum, a LeafRule, whose "
        "displacements have the dtype of the arithmetic: widening returns them as they are."
    ),
    "base.LeafRule._init_slot copy_dropped: "
    "_own(numerics.cast(x, self._stored_dtype(x, dtype)), p) -> numerics.cast(x, self._stored_dtype(x, dtype))": (
        "It copies a slot that is the parameter itself. No init_leaf of the rows returns its argument, so nothing is "
        "copied; starts_as_parameter makes rules of which one does."
    ),
    "base._update_one not_cast: t.astype(dtype) -> t": (
        "In Adam and ZeroNaNs t meets floating numbers only, to whose dtype JAX promotes an int32; below 2**24 that is "
        "exact, as astype is."
    ),
    "factored.matrix_axes constant_off: 1 -> 1.1": (
        "len(shape) is a whole number, and is above 1 where, and only where, it is above 1.1."
    ),
    "gated.Accumulated.update not_cast: k.astype(x.dtype) -> k": (
        "The sum x is floating and k an int32 below 2**24: x / k promotes k to the dtype of x, as astype does."
    ),
    "clipping.ClipByGlobalNorm domain_closed: hyper(1.0, '(0, inf)', 'largest norm that passes unchanged') -> "
    "hyper(1.0, '[0, inf)', 'largest norm that passes unchanged')": (
        "At max_norm = 0 the formula has a value: g times min(1, 0) is 0. The wider domain is right, and of no use."
    ),
    "lbfgs.LBFGS._search not_cast: alpha.astype(d.dtype) -> alpha": (
        "alpha has the widest dtype of the parameters' arithmetic, so it is that of d unless parameters of float32 and "
        "float64 are mixed; then the same product is rounded later."
    ),
    "stages.trust_scaled constant_off: 1.0 -> 1.1": (
        "The constant divides where a norm is 0 only, and there the last line takes the direction itself instead."
    ),
    "wrappers.Cautious._downhill guard_removed: numerics.safe_divide(d.size, total) -> d.size / total": (
        "total is 0 only if no component agrees, and then the where around it takes -0.0 everywhere."
    ),
}

# Mistakes that the kit does not see, with what it would have to do.
SURVIVORS: dict[str, str] = {
    "numerics.safe_divide case_dropped: jnp.where(zero, 1.0, denominator) -> denominator": (
        "It changes derivatives at a denominator of 0 and no value. The kit differentiates by the learning rate, away "
        "from 0, and not by gradients that are 0; test_numerics.py does."
    ),
    "factored.Adafactor.update_leaf drop_function: jnp.sqrt(t) -> t": (
        "min(1e-2, 1 / √t) is 1e-2 for 10000 steps, and with t for 100, which are as many as the kit takes with an "
        "oracle."
    ),
    "gated.SkipNonFinite.init starts_elsewhere: jnp.zeros((), jnp.int32) -> jnp.ones((), jnp.int32)": (
        "The count of steps left out is for people to read, and nothing is computed from it. What a count must begin "
        "with no check can know; test_wrappers_gated.py does."
    ),
    "gated.SkipNonFinite.update option_ignored: "
    "[jnp.all(jnp.isfinite(step.value))] if 'value' in self.needs else [] -> []": (
        "A loss that is not finite is let through where all gradients are. The rule inside of the row asks for no "
        "loss, and the kit's losses are finite; test_wrappers_gated.py has one that is not."
    ),
    "gated.SkipNonFinite.update counter_overflows: numerics.count_up(n) -> n + 1": (
        "It counts gradients that are not finite, of one parameter. The kit takes counters to their end with steps "
        "whose gradients are finite, which this one does not count."
    ),
}
