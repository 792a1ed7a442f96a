"""What an exhibit of the museum is, and the two kinds of rules that most of them are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.rules import Rule, Step

R = TypeVar("R", bound=type[Rule])


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A defect that a library had, as a rule, and what the kit must make of it.

    Args:
        rule: the rule with the defect.
        repaired: the same rule without it: a subclass in which ``defect`` is False.
        origin: library, version and place, or the number of the issue.
        notes: the file of the notes on peers that the facts are from, and words that stand in it.
        story: what went wrong for users.
        rejected_by: the name of the check that must reject the rule and accept the repaired one.
        says: what the message of the check must match: what matters, by name.
        options: further arguments of the check, such as the oracle.
    """

    rule: type[Rule]
    repaired: type[Rule]
    origin: str
    notes: tuple[str, str]
    story: str
    rejected_by: str
    says: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the rule."""
        return self.rule.__name__


EXHIBITS: list[Exhibit] = []


def exhibit(
    *, origin: str, notes: tuple[str, str], story: str, rejected_by: str, says: str, **options: Any
) -> Callable[[R], R]:
    """Put a rule into the museum. The rule asks ``self.defect`` whether to do it wrong or right."""

    def put(rule: R) -> R:
        rule.defect = True  # type: ignore[attr-defined]
        name = f"Repaired{rule.__name__}"
        space = {"defect": False, "__module__": rule.__module__, "__doc__": f"{rule.__name__} without its defect."}
        repaired = type(name, (rule,), space)
        setattr(sys.modules[rule.__module__], name, repaired)  # where pickle looks for it
        EXHIBITS.append(Exhibit(rule, repaired, origin, notes, story, rejected_by, says, options))
        return rule

    return put


class BareRule(Rule):
    """A rule that treats each parameter alike, in the dtype that ``working_dtype`` says: nothing else casts for it.

    The library's own ``LeafRule`` cannot have the defects of low precision, for it widens whatever it passes on.
    """

    defect: ClassVar[bool] = False

    def working_dtype(self, p: Any) -> Any:
        """Return the dtype of slots and arithmetic: that of the parameter is the defect."""
        return p.dtype if self.defect else numerics.compute_dtype(p.dtype)

    def init_one(self, p: Any) -> Any:
        """Return the slot of a parameter, which has the working dtype."""
        return {}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> tuple[Any, Any]:
        """Return displacement and next slot; ``t`` is an int32 counter from 1."""
        raise NotImplementedError

    def init(self, params: Any) -> Any:
        slots = jax.tree.map(lambda p: self.init_one(numerics.cast(p, self.working_dtype(p))), params)
        return {"t": jnp.zeros((), jnp.int32), "slots": slots}

    def update(self, step: Step, state: Any) -> Any:
        structure = jax.tree.structure(step.params)
        t = numerics.count_up(state["t"])
        pairs = []
        for g, slot, p in zip(structure.flatten_up_to(step.grads), structure.flatten_up_to(state["slots"]),
                              jax.tree.leaves(step.params), strict=True):  # fmt: skip
            dtype = self.working_dtype(p)
            lr = numerics.cast(step.lr, dtype)
            pairs.append(self.update_one(numerics.cast(g, dtype), slot, numerics.cast(p, dtype), lr=lr, t=t))
        slots = structure.unflatten([slot for _, slot in pairs])
        return structure.unflatten([delta for delta, _ in pairs]), {"t": t, "slots": slots}


def sum_of_squares(tree: Any) -> Any:
    """Return the sum of the squares of all elements of a tree."""
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))


def zeros(params: Any) -> Any:
    """Return a tree of zeros: float32, or float64 for float64."""
    return jax.tree.map(lambda p: jnp.zeros(p.shape, numerics.compute_dtype(p.dtype)), params)


def wide(tree: Any) -> Any:
    """Return a tree in the dtype of the arithmetic, in memory of its own."""
    return jax.tree.map(lambda x: jnp.array(x, numerics.compute_dtype(x.dtype), copy=True), tree)
