"""Groups that many scripts need, by one call each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import check_hyperparameter
from optimkit.optimizer.groups import LR_SCALE, Group, Match, Together


def is_vector(name: str, x: Any) -> bool:
    """Tell whether a parameter has less than two axes, as biases and the scales of most norms have."""
    return x.ndim < 2


BIASES_AND_NORMS: Match = (is_vector, r"Norm|(?<![a-z])norm|bias|(^|\.)b$")


def no_decay(match: Match = BIASES_AND_NORMS, *, hyperparameter: str = "weight_decay") -> list[Group]:
    """Return the group ``"no_decay"``, of parameters whose weights do not decay.

    Args:
        match: which they are: by default those with less than two axes, and those whose name says that they are a
            bias (``bias``, ``b``) or part of a norm.
        hyperparameter: the name of the rate of decay, ``"rate"`` for a ``WeightDecay`` in a chain.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import nn, optimizer
        >>> model = nn.Sequential([nn.Linear(2, 3), nn.LayerNorm(3)])
        >>> opt = optimizer.AdamW(model.vars(), weight_decay=0.1, groups=no_decay())
        >>> [name for name, group in opt.group_of.items() if group == "default"]
        ['(Sequential)[0](Linear).w']
    """
    rate: dict[str, Any] = {hyperparameter: 0.0}
    return [Group("no_decay", match, **rate)]


def train_only(match: Match) -> list[Group]:
    r"""Return groups for training only what matches, an adapter or a head: all others are frozen.

    Args:
        match: what is trained, the group ``"trained"``.

    Example:
        >>> from optimkit import nn, optimizer
        >>> model = nn.Sequential([nn.Linear(2, 3), nn.Linear(3, 1)])
        >>> opt = optimizer.Adam(model.vars(), groups=train_only(r"\[1\]"))
        >>> opt.group_of["(Sequential)[0](Linear).w"]
        'frozen'
    """
    return [Group("trained", match), Group("frozen", frozen=True)]


def layerwise_lr_decay(layers: Sequence[Match], decay: float) -> list[Group]:
    """Return groups ``"layer0"``, ``"layer1"``, ... that learn the slower the nearer they are to the input.

    ::

        lr of layer i of n = lr · decay^(n − i),  i from 0;  lr for what is in no layer, such as the head

    Args:
        layers: what matches each layer, from the input to the output.
        decay: the factor from a layer to the one before, in (0, 1].

    Raises:
        HyperparameterError: the factor is out of range, or there is no layer.

    Reference: Clark, Luong, Le & Manning 2020, ELECTRA, appendix A. arXiv:2003.10555; Howard & Ruder 2018, section 3.2,
    arXiv:1801.06146.

    Example:
        >>> groups = layerwise_lr_decay(["embed", "block0", "block1"], 0.5)
        >>> [(group.name, group.lr_scale) for group in groups]
        [('layer0', 0.125), ('layer1', 0.25), ('layer2', 0.5)]
    """
    check_hyperparameter("layerwise_lr_decay", "decay", decay, "(0, 1]")
    if not layers or isinstance(layers, str):
        raise HyperparameterError(message("layerwise_lr_decay", "there are no layers.", "a list of what matches each",
                                          repr(layers)))  # fmt: skip
    return [Group(f"layer{i}", match, lr_scale=decay ** (len(layers) - i)) for i, match in enumerate(layers)]


def crossed(groups: Iterable[Group], others: Iterable[Group]) -> list[Group]:
    """Return groups for two divisions of the same variables at once, such as layers, and what decays.

    A variable that is in a group of each has the options of both; factors of the learning rate are multiplied. Groups
    that come out empty are left out.

    Args:
        groups: the first division.
        others: the second.

    Raises:
        HyperparameterError: two groups differ in more than can be put together.

    Example:
        >>> groups = crossed(layerwise_lr_decay(["embed", "block"], 0.5), no_decay())
        >>> [group.name for group in groups]
        ['layer0_no_decay', 'layer1_no_decay', 'layer0', 'layer1', 'no_decay']
    """
    groups, others = list(groups), list(others)
    both = [_both(a, b) for a in groups for b in others]
    alone = [_renewed(a, a.name, Together((a,), tuple(others))) for a in groups]
    alone += [_renewed(b, b.name, Together((b,), tuple(groups))) for b in others]
    return [*both, *alone]


def _options(group: Group) -> dict[str, Any]:
    options = {"rule": group.rule, LR_SCALE: group.lr_scale, "slot_dtype": group.slot_dtype,
               "frozen": group.frozen or None, **group.hyperparameters}  # fmt: skip
    return {name: x for name, x in options.items() if x is not None}


def _renewed(group: Group, name: str, match: Together) -> Group:
    return Group(name, match, optional=True, fallback=group.fallback, **_options(group))


def _both(a: Group, b: Group) -> Group:
    """Return the group of what is in two groups."""
    mine, theirs = _options(a), _options(b)
    name, match = f"{a.name}_{b.name}", Together((a, b))
    if a.frozen or b.frozen:
        return Group(name, match, optional=True, frozen=True)
    if LR_SCALE in mine and LR_SCALE in theirs:
        factors = mine.pop(LR_SCALE), theirs.pop(LR_SCALE)
        if any(map(callable, factors)):
            raise HyperparameterError(message("crossed", "two factors of the learning rate, one of them a schedule.",
                                              "numbers", f"{factors!r}"))  # fmt: skip
        mine[LR_SCALE] = factors[0] * factors[1]
    beside = (mine | theirs).keys() - {LR_SCALE}
    if mine.keys() & theirs.keys() or ("rule" in beside and len(beside) > 1):
        raise HyperparameterError(message("crossed", f"{a.name!r} and {b.name!r} cannot have both their options.",
                                          "options that can be put together", f"{a!r}, {b!r}"))  # fmt: skip
    return Group(name, match, optional=True, **mine, **theirs)
