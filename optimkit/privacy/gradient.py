"""Gradients that tell next to nothing about any one example: clipped one by one, added up, and made noisy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.core import GradValues, RandomState, TrainVar, VarCollection
from optimkit.core.random import DEFAULT_GENERATOR, Generator
from optimkit.core.transform import Written
from optimkit.errors import DTypeError, MissingInputError, StructureError, VariableError, describe, message
from optimkit.hyper import check_hyperparameter
from optimkit.numerics import cast, compute_dtype
from optimkit.rules.clipping import clipped_sum, example_norm, shrunk

Keys = dict[int, jax.Array]  # of each RandomState of the collection, by index, one for each microbatch


class PrivateGradValues(GradValues):
    """Differentially private gradients, and values: ``grads, values = PrivateGradValues(f, vc, ...)(*args)``.

    ::

        ḡᵢ = gᵢ · min(1, C / ‖gᵢ‖),  gᵢ the gradient of f on microbatch i, ‖gᵢ‖ over all variables together
        grads = (Σᵢ ḡᵢ + σ C · n) / B,  n standard normal, drawn anew at each call

    It stands where ``GradValues`` does, in front of any optimizer: what an optimizer makes of private gradients is as
    private. How private, :class:`RDPAccountant` says, with σ = ``noise_multiplier``. C is ``l2_norm_clip`` and B the
    number of microbatches, or ``expected_batch_size / microbatch``.

    A microbatch whose gradient has an infinity or a NaN counts as zero: it moves nothing, and tells nothing.

    Args:
        f: a function, or a module, that returns the loss, alone or first in a tuple or list, as for ``GradValues``. It
            is called with ``microbatch`` examples at a time, on the axis where it expects a batch.
        vc: the variables that ``f`` reads; gradients are with respect to the TrainVars in it.
        noise_multiplier: σ. 0 adds no noise, and then nothing is private.
        l2_norm_clip: C.
        microbatch: how many examples are differentiated, and clipped, together. See below.
        batch_axis: the axis of the examples in each argument, of which 0 is the only one supported; one 0 serves all.
        keygen: the generator of the noise; its key is state. See below.
        use_norm_accumulation: first compute the norms, then the gradient of Σᵢ wᵢ fᵢ with wᵢ = min(1, C / ‖gᵢ‖), which
            is Σᵢ ḡᵢ, in a second pass. The gradients of single microbatches are never kept together, only their norms;
            numbers are the same up to rounding (in the dtype of the parameters, which shows in half precision; a
            gradient more than 1e37 times as long as C counts as zero).
        chunk: how many microbatches are differentiated at once; they are then taken one chunk after the other. Bounds
            the memory in both modes. All at once where None.
        expected_batch_size: B · microbatch, where the number of examples varies from call to call. It must not depend
            on the data: it is q n, not the number that was drawn.

    Call it with arrays whose axis 0 is that of the examples, or trees of them; keyword arguments go to ``f`` as they
    are. ``mask``, bool[examples / microbatch], is False for microbatches that are padding and count for nothing, so
    that Poisson-sampled batches of all sizes run one program; it needs ``expected_batch_size``::

        gv = PrivateGradValues(loss, model.vars(), 1.1, 1.0, 1, expected_batch_size=batches.expected_batch_size)
        grads, values = gv(x[index], y[index], mask=mask)

    Returns (when called):
        ``grads``, a list with one for each TrainVar in the collection's order, float32 (float64 for float64); and
        ``values``, what ``f`` returned, averaged over the microbatches that count. **Values are not private**: do not
        publish losses, nor choose by them.

    *Random states.* In ``f`` every RandomState is split, so that each microbatch draws numbers of its own (dropout).
    The noise is drawn from ``keygen``, which a compiled function must list: ``Jit(train, gv.vars() + opt.vars())``.
    Who knows its seed can take the noise away, and DEFAULT_GENERATOR starts at 0: give ``Generator(seed)`` with a
    secret seed, such as ``secrets.randbits(32)``, or seed it. JAX's generator and its float32 normal numbers are not
    made to withstand an attack on the generator itself, or on floating-point rounding.

    *Other states.* If ``f`` writes to a variable, such as the running statistics of BatchNorm, that is an error: those
    values would depend on single examples without clip or noise. Use layers that do not mix examples.

    *Microbatches.* What is clipped together moves the sum by at most C, as accountants suppose, and what they promise
    is promised to that: to an example, with ``microbatch=1``; to a person, if a microbatch has all examples of one,
    and persons are sampled. Where examples of different persons share a microbatch, one that comes or goes can turn
    ḡ around and move the sum by 2 C: account with ``noise_multiplier / 2``, and only if they always share it.

    Raises:
        StructureError: ``batch_axis`` is not all 0, ``keygen`` is no Generator; by calls: the number of examples
            differs between arguments, or microbatches, or chunks, do not divide it; ``mask`` has another shape.
        HyperparameterError: an argument is out of range.
        DTypeError: a TrainVar is not real; ``mask`` is not of bools.
        MissingInputError: ``mask`` without ``expected_batch_size``.
        VariableError: ``f`` writes to a variable.

    Deviations: objax takes NaN through to all gradients, gives mean values of padding too, and writes running
    statistics. It has no ``chunk``, ``expected_batch_size`` and ``mask``.

    Reference: Abadi et al. 2016, Deep Learning with Differential Privacy, Algorithm 1. arXiv:1607.00133. Norm
    accumulation: Lee & Kifer 2020, Scaling up Differentially Private Deep Learning with Fast Per-Example Gradient
    Clipping. arXiv:2009.03106.

    Example:
        >>> w = TrainVar(jnp.zeros(2))
        >>> gv = PrivateGradValues(lambda x: jnp.sum(w * x), VarCollection({"w": w}), 0.0, 1.0, 1, keygen=Generator(7))
        >>> grads, values = gv(jnp.array([[3.0, 4.0], [0.5, 0.0], [jnp.inf, 1.0], [0.0, 0.0]]))
        >>> grads  # (0.6, 0.8) + (0.5, 0), of four examples
        [Array([0.275, 0.2  ], dtype=float32)]
    """

    def __init__(
        self,
        f: Callable[..., Any],
        vc: VarCollection,
        noise_multiplier: float,
        l2_norm_clip: float,
        microbatch: int,
        batch_axis: Sequence[int] = (0,),
        keygen: Generator = DEFAULT_GENERATOR,
        use_norm_accumulation: bool = False,
        *,
        chunk: int | None = None,
        expected_batch_size: float | None = None,
    ):
        super().__init__(f, vc)
        where = "PrivateGradValues"
        check_hyperparameter(where, "noise_multiplier", noise_multiplier, "[0, inf)")
        check_hyperparameter(where, "l2_norm_clip", l2_norm_clip, "(0, inf)")
        check_hyperparameter(where, "microbatch", microbatch, "int [1, inf)")
        check_hyperparameter(where, "use_norm_accumulation", use_norm_accumulation, bool)
        check_hyperparameter(where, "chunk", chunk, "int [1, inf)", optional=True)
        check_hyperparameter(where, "expected_batch_size", expected_batch_size, "(0, inf)", optional=True)
        self.batch_axis = tuple(batch_axis)
        if not self.batch_axis or any(axis != 0 or axis is False for axis in self.batch_axis):
            raise StructureError(message(where, "batch_axis is not a tuple of zeros.", "(0,), or a 0 for each argument",
                                         repr(batch_axis), "What has no axis of examples goes by keyword."
                                         ))  # fmt: skip
        for name, v in self.vc.subset(TrainVar).items():
            if not jnp.issubdtype(v.dtype, jnp.floating):
                raise DTypeError(message(where, f"the TrainVar {name!r} is not real.", "a float dtype", str(v.dtype)))
        if not isinstance(keygen, Generator):
            raise StructureError(message(where, "keygen is not a generator of random numbers.", "a Generator",
                                         describe(keygen), "random.Generator(seed)"))  # fmt: skip
        self.keygen = keygen
        self.use_norm_accumulation, self.microbatch, self.chunk = use_norm_accumulation, microbatch, chunk
        self.expected_batch_size = expected_batch_size
        self._noise_multiplier, self._l2_norm_clip = float(noise_multiplier), float(l2_norm_clip)
        self._random = {i: v for i, v in enumerate(self.vc.unique().values()) if isinstance(v, RandomState)}

    @property
    def noise_multiplier(self) -> float:
        """σ, the deviation of the noise on the sum over C. Read-only: it is a constant of compiled programs."""
        return self._noise_multiplier

    @property
    def l2_norm_clip(self) -> float:
        """C, the largest norm that passes. Read-only, too."""
        return self._l2_norm_clip

    def vars(self, scope: str = "") -> VarCollection:
        """Return the variables, as given, and the key of the noise."""
        return super().vars(scope) + self.keygen.vars(f"{scope}({type(self).__name__}).keygen")

    def __call__(self, *args: Any, mask: Any = None, **kwargs: Any) -> tuple[list[Any], Any]:
        """Return the private gradients, and the values."""
        examples = self._number_of_examples(args)
        count = examples // self.microbatch
        size = examples if self.expected_batch_size is None else self.expected_batch_size
        split = lambda x: jnp.reshape(x, (count, self.microbatch, *jnp.shape(x)[1:]))  # noqa: E731
        batch = jax.tree.map(split, args)
        mask = self._checked_mask(mask, count)
        with self.vars().restored_on_error():
            keys: Keys = {i: v.split(count) for i, v in self._random.items()}
            total, values = self._guarded(self._in_chunks, keys, batch, mask, kwargs)
            # Drawn in any case, so that the state does not depend on σ.
            noise_keys = jax.random.split(self.keygen(), max(len(total), 1))
        divisor = max(size / self.microbatch, 1.0) if self.expected_batch_size is None else size / self.microbatch
        grads = [self._noisy(g, key) / divisor for g, key in zip(total, noise_keys, strict=False)]
        counted = jnp.maximum(jnp.sum(mask), 1)
        return grads, jax.tree.map(lambda v: v / counted, values)

    def _noisy(self, g: jax.Array, key: jax.Array) -> jax.Array:
        sigma = self._noise_multiplier * self._l2_norm_clip
        return g + sigma * jax.random.normal(key, g.shape, g.dtype) if sigma else g

    # --- sums over microbatches -----------------------------------------------------------------------------------

    def _in_chunks(self, keys: Keys, batch: Any, mask: jax.Array, kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        """Return the sums of clipped gradients and of values, over chunks in turn."""
        count, sums = len(mask), self._sums_by_norm if self.use_norm_accumulation else self._sums
        chunk = min(self.chunk or count, count)
        if chunk == count:
            return sums(keys, batch, mask, kwargs)
        if count % chunk:
            raise StructureError(message(
                repr(self), f"chunks of {chunk} do not divide {count} microbatches.", f"a multiple of {chunk}",
                f"{count}", "Pad the batch and mask the padding, or take another chunk."))  # fmt: skip
        parts = jax.tree.map(lambda x: jnp.reshape(x, (-1, chunk, *x.shape[1:])), (keys, batch, mask))
        first = jax.tree.map(lambda x: x[0], parts)
        form = jax.eval_shape(lambda part: sums(part[0], part[1], part[2], kwargs), first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)

        def add(total: Any, part: tuple[Keys, Any, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, sums(part[0], part[1], part[2], kwargs)), None

        return jax.lax.scan(add, zeros, parts)[0]

    def _sums(self, keys: Keys, batch: Any, mask: jax.Array, kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        """Return both sums, by the gradients of all microbatches."""
        grads, values = self._gradients(lambda grads: grads, keys, batch, kwargs)
        return clipped_sum(grads, self._l2_norm_clip, mask), masked_sum(values, mask)

    def _sums_by_norm(self, keys: Keys, batch: Any, mask: jax.Array, kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        """Return both sums, by the norms of all microbatches and the gradient of a weighted sum of their losses."""
        norms, values = self._gradients(lambda grads: example_norm(*grads), keys, batch, kwargs)
        counts = jnp.isfinite(norms) & mask
        weights = jnp.where(counts, shrunk(jnp.ones_like(norms), norms, self._l2_norm_clip), 0.0)
        if len(mask):
            # 0 times what is not finite is NaN. In place of what does not count, another microbatch has weight 0.
            chosen = jnp.where(counts, jnp.arange(len(mask)), jnp.argmax(counts))
            keys, batch = jax.tree.map(lambda x: x[chosen], (keys, batch))

        def weighted(trained: list[Any]) -> jax.Array:
            losses = jax.vmap(lambda keys, args: self._loss(trained, keys, args, kwargs)[0])(keys, batch)
            return jnp.sum(weights * cast(losses, compute_dtype(losses.dtype)))

        total = [cast(g, compute_dtype(g.dtype)) for g in jax.grad(weighted)(self._inputs(()))]
        return [jnp.where(jnp.any(counts), g, 0.0) for g in total], masked_sum(values, mask)

    def _gradients(
        self, then: Callable[[list[Any]], Any], keys: Keys, batch: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Return what ``then`` makes of the gradients of each microbatch, in wide dtypes, and the values of each."""

        def one(keys: Keys, args: Any) -> tuple[Any, Any]:
            grads, values = jax.grad(self._loss, has_aux=True)(self._inputs(()), keys, args, kwargs)
            return then([cast(g, compute_dtype(g.dtype)) for g in grads]), values

        return jax.vmap(one)(keys, batch)

    def _loss(self, trained: list[Any], keys: Keys, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the loss and the values of one microbatch."""
        tensors = [keys.get(i, x) for i, x in enumerate(self._read())]
        for i, x in zip(self._trained, trained, strict=True):
            tensors[i] = x
        outputs, written = self._run(tensors, args, kwargs)
        self._refuse_writes(written)
        return self._scalar(outputs), outputs if isinstance(outputs, tuple | list) else [outputs]

    # --- checks ---------------------------------------------------------------------------------------------------

    def _refuse_writes(self, written: Written) -> None:
        names = list(self.vc.unique().keys())
        public = [names[i] for i in written.indices if i not in self._random]
        if public:
            raise VariableError(message(
                repr(self), f"the function writes to {public[0]!r}, which would not be private.",
                "writes to random states alone", f"writes to {', '.join(map(repr, public))}",
                "Running statistics of a batch depend on single examples: use GroupNorm or LayerNorm in place of "
                "BatchNorm, or training=False."))  # fmt: skip

    def _number_of_examples(self, args: Sequence[Any]) -> int:
        if len(args) != len(self.batch_axis) != 1:
            raise StructureError(message(repr(self), "the number of arguments does not fit batch_axis.",
                                         f"{len(self.batch_axis)}, for batch_axis={self.batch_axis}", f"{len(args)}"
                                         ))  # fmt: skip
        leaves = [(i, x) for i, arg in enumerate(args) for x in jax.tree.leaves(arg)]
        if not leaves:
            raise StructureError(message(repr(self), "there are no examples.", "an array at least", "none"))
        for i, x in leaves:
            if not jnp.ndim(x) or jnp.shape(x)[0] != jnp.shape(leaves[0][1])[:1][0]:
                raise StructureError(message(
                    repr(self), f"argument {i} does not have as many examples, on axis 0, as the first.",
                    describe(leaves[0][1]), describe(x), "What has no axis of examples goes by keyword."
                    ))  # fmt: skip
        examples = int(jnp.shape(leaves[0][1])[0])
        if examples % self.microbatch:
            raise StructureError(message(
                repr(self), f"microbatches of {self.microbatch} do not divide {examples} examples.",
                f"a multiple of {self.microbatch}", f"{examples}",
                f"Drop {examples % self.microbatch} examples, or take microbatch=1."))  # fmt: skip
        return examples

    def _checked_mask(self, mask: Any, count: int) -> jax.Array:
        """Return the mask, all True where it is None."""
        if mask is None:
            return jnp.ones(count, bool)
        if self.expected_batch_size is None:
            raise MissingInputError(message(
                repr(self), "mask needs expected_batch_size: the number of True values is not private.",
                "a number", "None", "PrivateGradValues(..., expected_batch_size=sampling_rate * n)"))  # fmt: skip
        if jnp.shape(mask) != (count,):
            raise StructureError(message(repr(self), "mask does not have one entry for each microbatch.",
                                         f"bool[{count}]", describe(mask)))  # fmt: skip
        if jnp.result_type(mask) != np.dtype(bool):
            raise DTypeError(message(repr(self), "mask is not of bools.", f"bool[{count}]", describe(mask)))
        return jnp.asarray(mask)


def masked_sum(values: Any, mask: jax.Array) -> Any:
    """Return the sums over the first axis of all arrays in a tree, of what a mask, bool[n], selects."""

    def total(v: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask.reshape(-1, *[1] * (v.ndim - 1)), v, 0), axis=0)

    return jax.tree.map(total, values)
