"""Scaffold: clients correct their gradients by how their data differ from everybody's.

Two rules, for the functional face and as what the plug-ins ``scaffold-client`` and ``scaffold-server`` are made of.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import StructureError, message
from optimkit.rules.base import LeafRule, Rule, Slot, Step, Tree
from optimkit.tree import names_and_leaves


class ScaffoldClient(LeafRule):
    """Subtracts from each gradient the client's control variate, less that of all clients: no drift of clients.

    ::

        direction = g − (cᵢ − c)                          at each step
        cᵢ⁺ = mean of g over the steps of the round       collect:  sends Δᵢ = cᵢ⁺ − cᵢ,  cᵢ ← cᵢ⁺
        correction cᵢ − c, steps of the round ← 0         receive:  c, of the server

    cᵢ estimates the mean gradient of the client's data, and c that of all data, so that each client steps along
    everybody's gradient. ``pure(ScaffoldClient(), lr)`` is the client of the paper. In a chain it is best the first,
    where gradients are still those of the data. Memory: three float32 per parameter, and they must be kept by the
    client from one of its rounds to the next.

    State: ``own`` (cᵢ), ``correction`` (cᵢ − c), ``total``, the sum of the round's gradients, shaped as the parameter,
    float32, from 0; ``t``, int32, the steps of the round.

    Deviations: the paper's option II writes cᵢ⁺ = cᵢ − c + (x − yᵢ) / (K lr). For its client, plain descent, that is
    the mean of gradients, as here; what a chain makes of a gradient afterwards does not enter. Option I, the gradient
    of all the client's data at the server's parameters, is left out.

    Reference: Karimireddy, Kale, Mohri, Reddi, Stich & Suresh 2020, SCAFFOLD: Stochastic Controlled Averaging for
    Federated Learning, Algorithm 1. arXiv:1910.06378.

    Example:
        >>> from optimkit import pure
        >>> rule, params = ScaffoldClient(), {"w": jnp.zeros(1)}
        >>> init, apply = pure(rule, lr=1.0)
        >>> state, params = apply({"w": jnp.full(1, 3.0)}, init(params), params)
        >>> delta, state = rule.collect(state)            # to the server
        >>> state = rule.receive(state, {"w": jnp.ones(1)})  # from the server: c = 1
        >>> apply({"w": jnp.full(1, 3.0)}, state, {"w": jnp.zeros(1)})[1]["w"]  # 3 - (3 - 1)
        Array([-1.], dtype=float32)
    """

    reference = "Karimireddy et al. 2020, Algorithm 1. arXiv:1910.06378"

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``own``, ``correction`` and ``total``, zero."""
        return {name: jnp.zeros_like(p) for name in ("own", "correction", "total")}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the corrected gradient, and the sum of the round's gradients."""
        return -lr * (g - slot["correction"]), {**slot, "total": slot["total"] + g}

    def collect(self, state: Tree) -> tuple[Tree, Tree]:
        """Return Δᵢ, a tree as the parameters, for the server, and the state with the new cᵢ.

        Without a step since ``receive`` it is 0, and so it is at a second call.
        """
        steps = state["t"]

        def new_own(slot: Slot) -> jax.Array:
            mean = slot["total"] / jnp.maximum(steps, 1).astype(slot["total"].dtype)
            return jnp.where(steps > 0, mean, slot["own"])

        new = jax.tree.map(new_own, state["slots"], is_leaf=_is_slot)
        delta = jax.tree.map(lambda slot, own: own - slot["own"], state["slots"], new, is_leaf=_is_slot)
        slots = jax.tree.map(lambda slot, own: {**slot, "own": own}, state["slots"], new, is_leaf=_is_slot)
        return delta, {**state, "slots": slots}

    def receive(self, state: Tree, shared: Tree) -> Tree:
        """Return the state at the start of a round, corrected by the server's c, a tree as the parameters.

        Raises:
            StructureError: ``shared`` has another structure, or an array of another shape.
        """
        structure: Any = jax.tree.structure(jax.tree.map(lambda slot: 0, state["slots"], is_leaf=_is_slot))
        owns = jax.tree.map(lambda slot: slot["own"], state["slots"], is_leaf=_is_slot)
        check_tree("ScaffoldClient.receive", shared, owns)

        def received(slot: Slot, c: Any) -> Slot:
            own = slot["own"]
            return {"own": own, "correction": own - numerics.cast(c, own.dtype), "total": jnp.zeros_like(own)}

        pairs = zip(structure.flatten_up_to(state["slots"]), structure.flatten_up_to(shared), strict=True)
        slots = structure.unflatten([received(slot, c) for slot, c in pairs])
        return {"t": jnp.zeros_like(state["t"]), "slots": slots}


class ScaffoldServer(Rule):
    """Keeps the sum of all clients' control variates for :class:`ScaffoldClient`; gradients pass as they are.

    ::

        direction = g
        s ← s + Σ Δᵢ,  over the clients of the round      receive
        c = s / number of clients                         shared

    ``pure(ScaffoldServer(), 1.0)`` on the mean of clients' displacements, with the sign of a gradient, is the server of
    the paper. Memory: one float32 per parameter.

    State: ``total``, s, shaped as the parameter, float32 (float64), from 0.

    Deviations: none, where the number is that of all clients: c ← c + |S|/N · mean Δᵢ. See :meth:`shared`.

    Reference: Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, Algorithm 1.
    arXiv:1910.06378.

    Example:
        >>> rule, params = ScaffoldServer(), {"w": jnp.zeros(2)}
        >>> deltas = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}  # of two clients
        >>> state = rule.receive(rule.init(params), jax.tree.map(lambda d: d.sum(0), deltas))
        >>> rule.shared(state, clients=4)
        {'w': Array([1. , 1.5], dtype=float32)}
    """

    reference = "Karimireddy et al. 2020, Algorithm 1. arXiv:1910.06378"

    def init(self, params: Tree) -> Tree:
        """Return ``total``, zero."""
        return {"total": jax.tree.map(lambda p: jnp.zeros_like(p, numerics.compute_dtype(p.dtype)), params)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return ``-lr`` times the gradients."""

        def moved(g: Any, p: Any) -> jax.Array:
            dtype = numerics.compute_dtype(p.dtype)
            return -numerics.cast(step.lr, dtype) * numerics.cast(g, dtype)

        return jax.tree.map(moved, step.grads, step.params), state

    def receive(self, state: Tree, deltas: Tree) -> Tree:
        """Return the state with the sum of clients' Δᵢ, a tree as the parameters, added.

        Raises:
            StructureError: ``deltas`` has another structure, or an array of another shape.
        """
        check_tree("ScaffoldServer.receive", deltas, state["total"])
        return {"total": jax.tree.map(lambda s, d: s + numerics.cast(d, s.dtype), state["total"], deltas)}

    def shared(self, state: Tree, clients: Any) -> Tree:
        """Return c, a tree as the parameters, for clients.

        Args:
            state: the server's.
            clients: the number of all clients, as in the paper, or of those that have been seen; 0 counts as 1.
        """
        count = jnp.maximum(jnp.asarray(clients), 1)
        return jax.tree.map(lambda s: s / count.astype(s.dtype), state["total"])


def _is_slot(x: Any) -> bool:
    """Tell whether a part of the state is a slot, and not a tree of parameters of the same names."""
    if not isinstance(x, dict) or x.keys() != {"own", "correction", "total"}:
        return False
    return all(jax.tree_util.treedef_is_leaf(jax.tree.structure(value)) for value in x.values())


def check_tree(where: str, given: Tree, own: Tree) -> None:
    """Raise unless a tree has the structure and the shapes of another one: nothing broadcasts."""
    names, leaves, structure = names_and_leaves(own)
    if jax.tree.structure(given) != structure:
        raise StructureError(message(where, "the arrays have another structure than the parameters.", structure,
                                     jax.tree.structure(given)))  # fmt: skip
    for name, old, new in zip(names, leaves, structure.flatten_up_to(given), strict=True):
        if jnp.shape(new) != jnp.shape(old):
            raise StructureError(message(where, f"the array of {name!r} has another shape.", list(jnp.shape(old)),
                                         list(jnp.shape(new))))  # fmt: skip
