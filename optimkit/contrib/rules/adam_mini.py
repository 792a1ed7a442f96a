"""Adam-mini: Adam with one second moment for each block of a parameter."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.contrib.rules.matrices import whole
from optimkit.contrib.rules.routing import EMBEDDINGS, HEADS, Routes, matches
from optimkit.errors import CompositionError, StructureError, message
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import Rule, Slot, Tree
from optimkit.rules.compose import Chain, Composed, Match, compiled, shown_match
from optimkit.rules.stages import WeightDecay
from optimkit.tree import names_and_leaves

Blocks = tuple[tuple[Match, str], ...]

KINDS = ("each", "tokens", "neurons", "heads", "kv_heads", "whole")
BY_NAME: Blocks = (
    (re.compile(r"(?i)bias|(?<![a-z])b(?![a-z])"), "each"),
    (EMBEDDINGS, "tokens"),
    (HEADS, "neurons"),
    (re.compile(r"(?i)(?<![a-z])(wq|query|q_proj|q)(?![a-z])"), "heads"),
    (re.compile(r"(?i)(?<![a-z])(wk|key|k_proj|k)(?![a-z])"), "kv_heads"),
    (re.compile(r""), "neurons"),
)


class BlockAdam(Adam):
    """Adam whose ``nu`` is the mean over blocks: slices of an axis, one or several together; or the whole parameter.

    State: ``mu``, shaped as the parameter; ``nu``, a vector with a number for each block; float32, from 0; ``t``.
    """

    axis: int | None = hyper(None, "int (-inf, inf)", "axis that is divided; None for one block")
    parts: int | None = hyper(None, "int [1, inf)", "number of blocks; None for one for each index")

    def _count(self, shape: tuple[int, ...]) -> int:
        """Return the number of blocks."""
        return 1 if self.axis is None else shape[self.axis] if self.parts is None else self.parts

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and a number for each block, zero."""
        count = self._count(p.shape)
        if self.axis is not None and p.shape[self.axis] % max(count, 1):
            raise StructureError(message(
                "AdamMini", f"an axis of {p.shape[self.axis]} does not divide into {self.parts} heads.",
                f"a multiple of {self.parts}", f"shape {list(p.shape)}",
                'Say which parameters have heads: AdamMini(blocks=((r"wq$", "heads"), ...)).'))  # fmt: skip
        zeros = jnp.zeros_like(p)
        return {"mu": zeros, "nu": jnp.zeros_like(self._means(zeros))}  # sharded as the means of each step are

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        mu = ema(self.beta1, slot["mu"], g)
        nu = ema(self.beta2, slot["nu"], self._means(g**2))
        nu_hat = debiased(nu, self.beta2, t)
        if self.axis is not None:
            axis = self.axis % g.ndim
            nu_hat = jnp.repeat(nu_hat, g.shape[axis] // max(len(nu), 1))
            nu_hat = nu_hat.reshape([n if i == axis else 1 for i, n in enumerate(g.shape)])
        else:
            nu_hat = nu_hat.reshape([1] * g.ndim)
        return -lr * self.quotient(debiased(mu, self.beta1, t), nu_hat), {"mu": mu, "nu": nu}

    def _means(self, x: jax.Array) -> jax.Array:
        """Return the mean of each block: over all other axes first, for which nothing that is sharded is reshaped."""
        others = tuple(i for i in range(x.ndim) if self.axis is None or i != self.axis % x.ndim)
        sums = jnp.atleast_1d(whole(jnp.sum(x, axis=others)))
        count = self._count(x.shape)
        return jnp.sum(sums.reshape(count, len(sums) // max(count, 1)), axis=1) / max(x.size // max(count, 1), 1)


class AdamMini(Composed, Adam):
    """AdamW with one learning rate for each block of parameters that belong together: half of its memory.

    ::

        μ ← β₁ μ + (1 − β₁) g
        ν_b ← β₂ ν_b + (1 − β₂) · mean of g² over block b
        p ← p − lr · (μ̂ / (√(ν̂_b + eps_root) + eps) + weight_decay · p)      for p in block b

    For transformers, at AdamW's learning rate. The blocks of a parameter are told by ``blocks``, pairs of a match (a
    regular expression, searched for in names, or a function of name and array) and of a kind, of which the first that
    matches holds::

        "each"        each element, which is Adam          biases
        "tokens"      each index of the first axis         embeddings
        "heads"       ``heads`` parts of the outputs' axis     queries
        "kv_heads"    ``kv_heads`` parts of it                 keys
        "neurons"     each index of the outputs' axis      all else
        "whole"       one block                            all else of less than two axes

    On the right is what they are unless told. Without ``heads`` queries and keys have a block for each neuron.
    ``layout`` says where outputs are: in the last axis as in JAX, or in the first as in PyTorch. Memory: one float32
    per parameter, and one for each block.

    State: by kind: ``mu``, shaped as the parameter; ``nu``, a vector with a number for each block, or for "each" shaped
    as the parameter; float32, from 0; ``t``, int32.

    Deviations: none from the authors' code of version 1.1.1, whose names of modules are others, and which leaves norms
    and biases out of the decay: see ``optimizer.no_decay``. Its paper has one block for each value matrix, too.
    ``eps_root`` is in neither.

    Reference: Zhang et al. 2024, Adam-mini: Use Fewer Learning Rates To Gain More, Algorithms 1 to 3. arXiv:2406.16793.

    Raises:
        CompositionError: ``blocks`` are not pairs of a match and a kind, or leave a parameter out.
        StructureError: heads do not divide an axis (by ``init``).

    Example:
        >>> from optimkit import contrib
        >>> shapes = {"wq": (8, 8), "up": (8, 32), "embed": (100, 8), "gain": (8,)}
        >>> params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        >>> rule = contrib.rules.AdamMini(heads=2)
        >>> rule.routes(params)
        {'embed': 'tokens', 'gain': 'whole', 'up': 'neurons', 'wq': 'heads'}
        >>> rule.init(params)["heads"]["BlockAdam"]["slots"]["wq"]["nu"].shape
        (2,)
    """

    reference = "Zhang et al. 2024, Algorithms 1 to 3. arXiv:2406.16793"
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")
    heads: int | None = hyper(None, "int [1, inf)", "heads of queries; None for a block for each neuron")
    kv_heads: int | None = hyper(None, "int [1, inf)", "heads of keys; None for as many as queries")
    layout: str = hyper("in_out", ("in_out", "out_in"), "whether inputs or outputs come first in a kernel's axes")
    blocks: Blocks = BY_NAME

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.blocks:
            if not isinstance(pair, tuple) or len(pair) != 2 or pair[1] not in KINDS:
                raise CompositionError(message("AdamMini", "blocks are pairs of a match and a kind.",
                                               "one of " + ", ".join(map(repr, KINDS)), repr(pair)))  # fmt: skip
        told = tuple((compiled("AdamMini(blocks=...)", match), kind) for match, kind in self.blocks)
        object.__setattr__(self, "blocks", told)

    def compose(self) -> Rule:
        """Return the partition by kinds of blocks."""
        outputs, heads = -1 if self.layout == "in_out" else 0, self.heads
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(Adam)}  # type: ignore[arg-type]
        rules: dict[str, Rule] = {
            "each": Adam(**own),
            "tokens": BlockAdam(**own, axis=0),
            "neurons": BlockAdam(**own, axis=outputs),
            "heads": BlockAdam(**own, axis=outputs, parts=heads),
            "kv_heads": BlockAdam(**own, axis=outputs, parts=heads if self.kv_heads is None else self.kv_heads),
            "whole": BlockAdam(**own),
        }
        decay = WeightDecay(self.weight_decay)
        routes = ((Has(kind, self.blocks), Chain(rule, decay)) for kind, rule in rules.items())
        return Routes(*routes, labels=tuple(rules))

    def routes(self, params: Tree) -> dict[str, str]:
        """Return the kind of blocks of each parameter, by name."""
        names, leaves, _ = names_and_leaves(params)
        return {name: Has("", self.blocks).kind_of(name, x) for name, x in zip(names, leaves, strict=True)}

    def __repr__(self) -> str:
        fields = {n: x for n, x in self._fields().items() if n != "blocks" and (n != "slot_dtype" or x is not None)}
        shown = [f"{n}={x!r}" for n, x in fields.items()]
        if self.blocks != BY_NAME:
            shown.append("blocks=(" + ", ".join(f"({shown_match(m)}, {kind!r})" for m, kind in self.blocks) + ",)")
        return f"AdamMini({', '.join(shown)})"


@dataclasses.dataclass(frozen=True)
class Has:
    """The match of parameters with a kind of blocks: a value, so that equal rules have equal partitions."""

    kind: str
    blocks: Blocks

    def __call__(self, name: str, x: Any) -> bool:
        """Tell whether a parameter has this kind."""
        return self.kind_of(name, x) == self.kind

    def kind_of(self, name: str, x: Any) -> str:
        """Return a parameter's kind."""
        for match, kind in self.blocks:
            if matches(match, name, x):
                return kind if kind == "each" or x.ndim > 1 else "whole"
        told = " or ".join(shown_match(match) for match, _ in self.blocks)
        raise CompositionError(message("AdamMini", f"nothing says what the blocks of {name!r} are.",
                                       "a match for each parameter", told,
                                       'Add a last pair that matches all: (".", "neurons").'))  # fmt: skip
