"""Float64 NumPy oracles, written from the papers, in their order and symbols; they share no code with optimkit.

Each is ``oracle_<name>(params, grads, lr, **hyper) -> list``: the parameters after each step. ``params`` is
``{name: array}``, ``grads`` one such dict per step, ``lr`` a number or one number per step. What departs from a paper
stands under *Deviation* in the docstring, and the rule under test must say the same.
"""

from .adam import oracle_adam, oracle_adamw, oracle_l2_adam
from .ema import oracle_ema
from .layerwise import oracle_lamb, oracle_lars, oracle_trust_ratio
from .sgd import oracle_momentum, oracle_sgd
from .stages import (
    clipped,
    oracle_clip_by_global_norm,
    oracle_l2_momentum,
    oracle_sgdw,
    oracle_weight_decay,
)

__all__ = [
    "clipped",
    "oracle_adam",
    "oracle_adamw",
    "oracle_clip_by_global_norm",
    "oracle_ema",
    "oracle_l2_adam",
    "oracle_l2_momentum",
    "oracle_lamb",
    "oracle_lars",
    "oracle_momentum",
    "oracle_sgd",
    "oracle_sgdw",
    "oracle_trust_ratio",
    "oracle_weight_decay",
]
