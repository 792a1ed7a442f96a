"""Defects of state: its form changes, it shares memory, it is kept elsewhere, or it knows leaves by their position."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import cast, count_up, one_minus_pow
from optimkit.rules import LeafRule, Rule, Step

from .exhibit import BareRule, exhibit, wide, zeros


@exhibit(
    origin="optax 0.2.8, sgd with momentum, adam and eight others; issue #1552",
    notes=("optax.md", "grads f32 on bf16 params: state dtype changes after step 1"),
    story="State starts in the dtype of the parameters and goes on in that of the gradients: with bfloat16 parameters "
    "and float32 gradients the second step compiles again, cond and scan fail, and memory doubles.",
    rejected_by="check_form_is_kept",
    says=r"a step changes the form of 'm\.bias' in the state \(float16 parameters, bfloat16 gradients\)",
)
class DriftingDtype(Rule):
    def init(self, params: Any) -> Any:
        return {"m": jax.tree.map(jnp.zeros_like, params) if self.defect else zeros(params)}

    def update(self, step: Step, state: Any) -> Any:
        grads = step.grads if self.defect else jax.tree.map(lambda m, g: cast(g, m.dtype), state["m"], step.grads)
        m = jax.tree.map(lambda m, g: 0.9 * m + g, state["m"], grads)
        return jax.tree.map(lambda x: -step.lr * x, m), {"m": m}


@exhibit(
    origin="optax 0.2.8, contrib.ademamix(mu_dtype=...), _ademamix.py:133",
    notes=("optax.md", "is **never re-cast: state dtype unstable**"),
    story="The dtype that was asked for, to save memory, holds until the first step and no longer.",
    rejected_by="check_slot_dtype_is_obeyed",
    says=r"the form of 'mu\.bias' in the state \(slot_dtype='bfloat16'\)",
)
class SlotDtypeOnlyAtFirst(Rule):
    slot_dtype: str | None = hyper(None, ("float16", "bfloat16", "float32"), "dtype of the state")

    def init(self, params: Any) -> Any:
        return {"mu": jax.tree.map(lambda m: m.astype(self.slot_dtype or m.dtype), zeros(params))}

    def update(self, step: Step, state: Any) -> Any:
        mu = jax.tree.map(lambda m, g: 0.9 * m.astype(g.dtype) + 0.1 * g, state["mu"], wide(step.grads))
        kept = mu if self.defect else jax.tree.map(lambda new, old: cast(new, old.dtype), mu, state["mu"])
        return jax.tree.map(lambda m: -step.lr * m, mu), {"mu": kept}


@exhibit(
    origin="optax 0.2.8, monitor, transforms/_monitoring.py:91",
    notes=("optax.md", "`monitor` init returns `{}` so the **state structure changes on first update**"),
    story="The state is empty until there is something to record, so a training loop in scan, or a step under cond, "
    "is refused.",
    rejected_by="check_form_is_kept",
    says="a step changes the tree of the state",
)
class EmptyUntilTheFirstStep(Rule):
    def init(self, params: Any) -> Any:
        return {} if self.defect else {"largest": jnp.zeros((), jnp.float32)}

    def update(self, step: Step, state: Any) -> Any:
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g)).astype(jnp.float32) for g in jax.tree.leaves(step.grads)]))
        return jax.tree.map(lambda g: -step.lr * g, step.grads), {"largest": largest}


@exhibit(
    origin="optax 0.2.8, contrib.sam, _sam.py:192; once zero_nans under MultiSteps, issue #828",
    notes=("optax.md", "bool state turns int32"),
    story="One of two states is chosen by multiplying with 0 and 1, and what was a bool comes out as an int32: the "
    "second step compiles again, and cond refuses the branches.",
    rejected_by="check_form_is_kept",
    says=r"a step changes the form of 'first' in the state.*expected bool\[\].*got +int",
)
class BoolBecomesInteger(Rule):
    def init(self, params: Any) -> Any:
        return {"first": jnp.array(True)}

    def update(self, step: Step, state: Any) -> Any:
        a, b = state["first"], jnp.array(False)
        keep = jnp.all(jnp.stack([jnp.all(g == 0) for g in jax.tree.leaves(step.grads)]))
        first = keep * a + (1 - keep) * b if self.defect else jnp.where(keep, a, b)
        return jax.tree.map(lambda g: -step.lr * g, step.grads), {"first": first}


@exhibit(
    origin="objax 1.8.0, StateVar(jn.array(1.0)); issue #212",
    notes=("objax.md", "`StateVar(jn.array(1.0))` (weak float) compiles twice"),
    story="A state made of a Python number has a weak type, and a strong one after the first step. Every model "
    "compiled twice; a project that builds on objax stayed with an old JAX for years because of it.",
    rejected_by="check_form_is_kept",
    says=r"a step changes the form of 'power' in the state.*expected float[0-9]+\[\], weakly typed",
)
class WeaklyTypedState(Rule):
    beta: float = hyper(0.9, "[0, 1)", "decay")

    def init(self, params: Any) -> Any:
        return {"power": jnp.array(1.0) if self.defect else jnp.array(1.0, jnp.float32)}

    def update(self, step: Step, state: Any) -> Any:
        power = (state["power"] * self.beta).astype(jnp.float32)
        return jax.tree.map(lambda g: -step.lr * (1 - power) * g, wide(step.grads)), {"power": power}


@exhibit(
    origin="optax 0.2.8, contrib.prodigy, dog, dowg, cocob, madgrad, mechanize; PR #1059",
    notes=("optax.md", "freshly-initialised state aliases params"),
    story="The starting point is kept as the very arrays of the parameters. A step that donates both, as large models "
    "must, is refused: the same buffer is given away twice.",
    rejected_by="check_state_has_memory_of_its_own",
    says=r"\['state'\]\['start'\]\['bias'\] shares its memory with \['params'\]\['bias'\] after init",
)
class StartIsTheParameters(Rule):
    def init(self, params: Any) -> Any:
        return {"start": params if self.defect else wide(params)}

    def update(self, step: Step, state: Any) -> Any:
        pull = jax.tree.map(lambda g, p, s: g + 1e-3 * (p - s), step.grads, step.params, state["start"])
        return jax.tree.map(lambda g: -step.lr * g, pull), state


@exhibit(
    origin="optax 0.2.8, lbfgs",
    notes=("optax.md", "its two memories share a buffer"),
    story="One tree of zeros is the first value of two memories. Nothing is wrong until the state is donated.",
    rejected_by="check_state_has_memory_of_its_own",
    says=r"\['state'\]\['of_params'\]\['bias'\] shares its memory with \['state'\]\['of_grads'\]\['bias'\]",
)
class OneTreeTwice(Rule):
    def init(self, params: Any) -> Any:
        memory = zeros(params)
        return {"of_params": memory, "of_grads": memory if self.defect else zeros(params)}

    def update(self, step: Step, state: Any) -> Any:
        return jax.tree.map(lambda g: -step.lr * g, step.grads), {
            "of_params": jax.tree.map(lambda m, p: 0.5 * m + p, state["of_params"], wide(step.params)),
            "of_grads": jax.tree.map(lambda m, g: 0.5 * m + g, state["of_grads"], wide(step.grads)),
        }


@exhibit(
    origin="optax, step counts before commit 547e92e5 (safe_increment)",
    notes=("optax.md", "547e92e5 safe int32 count"),
    story="After 2**31 - 1 steps the count is negative, and powers of it are infinite.",
    rejected_by="check_counters_saturate",
    says=r"'bias'\[0\] is not finite|the counter 't' is negative after step 2\*\*31",
)
class OverflowingCount(Rule):
    def init(self, params: Any) -> Any:
        return {"t": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Any) -> Any:
        t = state["t"] + 1 if self.defect else count_up(state["t"])
        correction = one_minus_pow(0.999, t.astype(jnp.float32))
        return jax.tree.map(lambda g: -step.lr * correction * g, wide(step.grads)), {"t": t}


@exhibit(
    origin="objax 1.8.0, state of optimizers, named (Adam).m(ModuleList)[i]",
    notes=("objax.md", "adding/reordering a layer silently re-maps optimizer state on load"),
    story="State is a list in the order of the parameters. In another order, or with a layer more, it loads without "
    "complaint and belongs to other parameters.",
    rejected_by="check_stateful_equals_functional",
    says="state at step 1",
    params={"first": jnp.ones(2), "second": 2 * jnp.ones(2)},
)
class StateByPosition(Rule):
    def init(self, params: Any) -> Any:
        m = zeros(params)
        return {"m": list(m.values()) if self.defect else m}

    def update(self, step: Step, state: Any) -> Any:
        grads = wide(step.grads)
        known = dict(zip(step.params, state["m"], strict=True)) if self.defect else state["m"]
        m = {name: 0.9 * known[name] + g for name, g in grads.items()}
        delta = {name: -step.lr * x for name, x in m.items()}
        return delta, {"m": [m[name] for name in step.params] if self.defect else m}


@exhibit(
    origin="objax 1.8.0, Jit with a variable missing from its VarCollection",
    notes=("objax.md", "read → frozen stale constant, no warning"),
    story="What the optimizer remembers is not among the variables that the compiled function knows: its value at the "
    "first call is a constant of the program, and training goes on with it, without a word.",
    rejected_by="check_deterministic",
    says="parameters at step 1 of a second run",
)
class RemembersInPython(Rule):
    calls: ClassVar[list[int]] = [0]

    def init(self, params: Any) -> Any:
        return {"calls": jnp.zeros((), jnp.float32)}

    def update(self, step: Step, state: Any) -> Any:
        self.calls[0] += 1
        t = float(self.calls[0]) if self.defect else state["calls"] + 1
        return jax.tree.map(lambda g: -step.lr * g / jnp.sqrt(t), wide(step.grads)), {"calls": state["calls"] + 1}


@exhibit(
    origin="declearn 2.4.0, FedProx, regularizers/_base.py:60-83",
    notes=("flax_fedjax_declearn.md", "first call of a round stores `ref_wgt = w` and returns g unchanged"),
    story="The weights that the run is held to are kept on the object, and are in no state that is saved. In a "
    "compiled step it would be a tracer that is kept, and the next call would fail somewhere else.",
    rejected_by="check_no_leaked_tracer",
    says="[Ll]eaked",
)
class ReferenceOnTheObject(Rule):
    kept: ClassVar[dict[str, Any]] = {}

    def init(self, params: Any) -> Any:
        self.kept.clear()
        return {"reference": wide(params)}

    def update(self, step: Step, state: Any) -> Any:
        reference = self.kept.setdefault("w", step.params) if self.defect else state["reference"]
        pull = jax.tree.map(lambda g, p, r: g + 0.01 * (p - r), wide(step.grads), step.params, reference)
        return jax.tree.map(lambda g: -step.lr * g, pull), state


@exhibit(
    origin="optax, Muon before commit e165e991",
    notes=("optax.md", "Muon leaked tracer when sharded (closure constant)"),
    story="Constants were made once, by whoever came first. When that was a trace, the closure held a tracer, and the "
    "next program failed with UnexpectedTracerError.",
    rejected_by="check_no_leaked_tracer",
    says="[Ll]eaked",
)
class ConstantsOfTheFirstTrace(LeafRule):
    cache: ClassVar[dict[str, Any]] = {}

    def init(self, params: Any) -> Any:
        self.cache.clear()
        return super().init(params)

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        cache = self.cache if self.defect else {}
        if "coefficients" not in cache:
            cache["coefficients"] = jnp.zeros(3) + jnp.array([3.4445, -4.7750, 2.0315])
        a, b, c = cache["coefficients"]
        return -lr * (a * g + b * g**3 + c * g**5), slot


@exhibit(
    origin="flax.optim 0.3.6, WeightNorm, optim/weight_norm.py:82-89",
    notes=("flax_fedjax_declearn.md", "Scalar leaf → IndexError"),
    story="The last axis of every parameter is asked for its length; a model with a scalar in it could not be trained.",
    rejected_by="check_odd_shapes",
    says="IndexError",
)
class ScalarsHaveAnAxis(LeafRule):
    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        split = (self.defect or p.ndim > 0) and p.size > p.shape[-1]
        return -lr * (g - jnp.mean(g, axis=-1, keepdims=True) if split and p.size else g), slot


@exhibit(
    origin="flax.optim, MultiOptimizer before its fix (CHANGELOG l.537)",
    notes=("flax_fedjax_declearn.md", "MultiOptimizer dropping empty dicts (l.537)"),
    story="Sub-trees without parameters, such as those of layers that have none, were missing from what came back.",
    rejected_by="check_form_is_kept",
    says="pytree structure error.*relu",
    params={"w": jnp.ones(2), "relu": {}},
)
class EmptySubtreesAreLost(BareRule):
    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g, slot

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        return {name: x for name, x in delta.items() if not (self.defect and isinstance(x, dict))}, new
