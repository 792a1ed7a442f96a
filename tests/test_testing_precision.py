"""Checks of the range and precision of numbers: low precision, counters at their ends, hyperparameters at theirs."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

from optimkit.errors import ConformanceError
from optimkit.hyper import hyper
from optimkit.numerics import cast
from optimkit.rules import Adam, LeafRule, Rule
from optimkit.testing.check import NotApplicable
from optimkit.testing.finite import check_finite_at_other_hyperparameters
from optimkit.testing.form import check_counters_saturate
from optimkit.testing.precision import check_low_precision_follows_float32


class Trial(Rule):
    """Gradient descent on whole trees; a subclass with a defect has a repaired twin, in which it is False."""

    defect: ClassVar[bool] = True

    @classmethod
    def repaired(cls) -> Rule:
        """Return the rule without its defect."""
        return type(f"Right{cls.__name__}", (cls,), {"defect": False, "__module__": __name__})()

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Any, state: Any) -> Any:
        return jax.tree.map(lambda g: -step.lr * cast(g, jnp.float32), step.grads), state


def rejects(check: Any, rule: Rule, says: str) -> None:
    """Hold a check to rejecting a rule by a message that begins with both, and matches."""
    with pytest.raises(ConformanceError, match=f"(?s){says}") as caught:
        check(rule)
    assert str(caught.value).startswith(f"{check.__name__}({rule!r})")


# --- low precision ----------------------------------------------------------------------------------------------------


class Normalised(Trial):
    """Divides by the root of the sum of squares, which overflows in float16."""

    def update(self, step: Any, state: Any) -> Any:
        grads = step.grads if self.defect else jax.tree.map(lambda g: cast(g, jnp.float32), step.grads)
        length = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda g: -step.lr * (g / length), grads), state


class SquaresOfHalves(Trial):
    """Its state is float32, and its step as well, but the squares in it were taken before they were widened."""

    def init(self, params: Any) -> Any:
        return {"nu": jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)}

    def update(self, step: Any, state: Any) -> Any:
        delta, _ = super().update(step, state)

        def squared(g: Any) -> Any:
            small = jnp.minimum(jnp.abs(g), jnp.asarray(10.0, g.dtype))
            return cast(small**2, jnp.float32) if self.defect else cast(small, jnp.float32) ** 2

        return delta, {"nu": jax.tree.map(lambda x, g: 0.9 * x + squared(g), state["nu"], step.grads)}


class RateInBfloat16(Trial):
    """Rounds the learning rate to bfloat16 where the parameters are."""

    def update(self, step: Any, state: Any) -> Any:
        half = jax.tree.leaves(step.params)[0].dtype == jnp.bfloat16 and self.defect
        return super().update(step.replace(lr=cast(step.lr, jnp.bfloat16) if half else step.lr), state)


@pytest.mark.parametrize("broken, says", [
    (Normalised, r"float16, step 1, gradients of size 300: the displacement of 'bias'\[0\].*got      -0\.0\n"),
    (SquaresOfHalves, r"float16, step 3, .*: the state 'nu\.bias'\[0\]: it is not that of the same numbers in float32"),
    (RateInBfloat16, r", bfloat16, step 1, gradients of size 300: the displacement of 'bias'\[0\]"),
])  # fmt: skip
def test_steps_in_low_precision_are_those_of_float32(broken, says):
    rejects(check_low_precision_follows_float32, broken(), says)
    check_low_precision_follows_float32(broken.repaired())


class InHalf(Trial):
    """Works in low precision, and says so: its displacements have the dtype of the parameters."""

    factor: float = hyper(1.0, "(0, inf)", "what the step is multiplied by in low precision only")

    def update(self, step: Any, state: Any) -> Any:
        delta = jax.tree.map(lambda g, p: cast(step.lr, p.dtype) * g.astype(p.dtype), step.grads, step.params)
        factors = jax.tree.map(lambda d: 1.0 if d.dtype == jnp.float32 else self.factor, delta)
        return jax.tree.map(lambda d, x: (-d * x).astype(d.dtype), delta, factors), state


def test_the_bound_is_that_of_the_dtype_in_which_the_displacement_is_given():
    eps = float(jnp.finfo("float16").eps)
    check_low_precision_follows_float32(InHalf())
    check_low_precision_follows_float32(InHalf(1 + 12 * eps))
    rejects(check_low_precision_follows_float32, InHalf(1 + 20 * eps), "float16, step 1")


def pair_that_moves(scale: float) -> Any:
    """Return a pair (init, apply) that computes in float32; in float16 it goes a bit less far."""

    def apply(grads: Any, state: Any, params: Any) -> Any:
        def move(p: Any, g: Any) -> Any:
            wide = cast(p, jnp.float32) - 0.1 * (scale if p.dtype == jnp.float16 else 1.0) * jnp.sign(g)
            return cast(wide, p.dtype)

        return state, jax.tree.map(move, params, grads)

    return lambda params: (), apply


def test_a_displacement_that_is_a_difference_of_parameters_is_known_to_their_rounding():
    check_low_precision_follows_float32(pair_that_moves(1.0))
    with pytest.raises(ConformanceError, match="float16, step 1, gradients of size 300: the displacement of 'bias'"):
        check_low_precision_follows_float32(pair_that_moves(0.0))


@pytest.mark.parametrize("need", ["grad_fn", "value_and_grad_fn"])
def test_of_rules_that_look_elsewhere_there_is_nothing_to_say(need):
    looking = type("Looking", (Trial,), {"needs": (need,), "__module__": __name__})()
    with pytest.raises(NotApplicable, match="points that are rounded"):
        check_low_precision_follows_float32(looking)


# --- counters ---------------------------------------------------------------------------------------------------------


class Counting(Trial):
    """Counts steps in an integer of some dtype, and divides by the count."""

    dtype: ClassVar[Any]

    def init(self, params: Any) -> Any:
        return {"seen": [jnp.zeros((2,), self.dtype)]}

    def update(self, step: Any, state: Any) -> Any:
        t = state["seen"][0]
        t = t + 1 if self.defect else jnp.maximum(t, t + 1)
        delta = jax.tree.map(lambda g: -step.lr * cast(g, jnp.float32) / cast(t[0], jnp.float32), step.grads)
        return delta, {"seen": [t]}


@pytest.mark.parametrize("dtype, what", [
    ("int32", r"is negative after step 2\*\*31\..*got      -2147483648 after 2147483647"),
    ("int8", r"is negative after step 2\*\*7\..*got      -128 after 127"),
    ("uint8", r"starts again after step 2\*\*8\..*got      0 after 255"),
    ("uint32", r"starts again after step 2\*\*32\."),
])  # fmt: skip
def test_counters_of_any_dtype_stop_at_their_end_and_are_named_before_parameters(dtype, what):
    counting = type("Counting", (Counting,), {"dtype": jnp.dtype(dtype), "__module__": __name__})
    rejects(check_counters_saturate, counting(), rf"the counter 'seen\.0' {what}")
    check_counters_saturate(counting.repaired())


class GoingRound(Trial):
    """Has integers that may fall: places in a ring, what is left to do, and random keys, old and new."""

    def init(self, params: Any) -> Any:
        numbers = {"place": jnp.zeros((), jnp.uint8), "left": jnp.full((), 100, jnp.int32)}
        return {**numbers, "old": jax.random.PRNGKey(0), "new": jax.random.key(0)}

    def update(self, step: Any, state: Any) -> Any:
        delta, _ = super().update(step, state)
        keys = {name: jax.random.split(state[name])[0] for name in ("old", "new")}
        place = jnp.where(state["place"] >= 2, 0, state["place"] + 1).astype(jnp.uint8)
        return delta, {"place": place, "left": state["left"] - 1, **keys}


def test_integers_that_are_no_counters_may_fall():
    check_counters_saturate(GoingRound())


# --- hyperparameters --------------------------------------------------------------------------------------------------


class Divided(LeafRule):
    """Each of its hyperparameters has one value in its domain at which it divides by 0."""

    defect: ClassVar[str] = ""
    beta: float = hyper(0.5, "[0, 1]", "closed above")
    offset: int = hyper(0, "int [0, inf)", "beyond the first step")
    scale: float = hyper(1.0, "(0, inf)", "large")
    variant: str = hyper("a", ("a", "b"), "a choice")
    flag: bool = hyper(False, bool, "a choice of two")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        bad = {"beta": self.beta == 1, "offset": self.offset >= 10, "scale": self.scale >= 100,
               "variant": self.variant == "b", "flag": self.flag}  # fmt: skip
        return -lr * (g / (0.0 if self.defect and bad[self.defect] else 1.0)), slot


@pytest.mark.parametrize("name, value", [
    ("beta", "1.0"), ("offset", "10"), ("scale", "100.0"), ("variant", "'b'"), ("flag", "True"),
])  # fmt: skip
def test_steps_are_finite_wherever_in_its_domain_a_hyperparameter_is(name, value):
    rule = type("Divided", (Divided,), {"defect": name, "__module__": __name__})()
    rejects(check_finite_at_other_hyperparameters, rule, rf" with Divided\.{name} = {value}: displacements at step 1")


def test_rules_that_are_finite_pass_and_those_without_hyperparameters_are_not_looked_at():
    check_finite_at_other_hyperparameters(Divided())
    check_finite_at_other_hyperparameters(Adam())
    with pytest.raises(NotApplicable, match="no hyperparameters"):
        check_finite_at_other_hyperparameters(Trial())
