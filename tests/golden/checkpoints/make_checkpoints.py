"""Writes the checkpoint of this format version, once, for all later versions to read.

    python tests/golden/checkpoints/make_checkpoints.py     (in the root of the repository)

Run it when ``optimkit.io.FORMAT`` grows, never to change a file that is there: what it holds is what people have on
their disks. ``golden_state`` says what is in it, and stays as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import RandomState, StateVar, TrainVar, VarCollection, io, optimizer, rules, schedule
from optimkit.optimizer import ExponentialMovingAverage

OTHERS = ("bfloat16", "float16", "float8_e4m3fn", "complex64", "int8", "uint16", "int32", "bool")


def golden_state(steps: int) -> tuple[VarCollection, list[Any]]:
    """Return a collection after some steps, and what its state belongs to, which must live as long as it is used."""
    w, b = TrainVar(jnp.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))), TrainVar(jnp.asarray(np.float32(0.5)))
    model = VarCollection({"(Net).w": w, "(Net).tied": w, "(Net).b": b})
    rule = rules.Chain(rules.ClipByGlobalNorm(1.0), rules.Adam(beta1=0.5))
    opt = optimizer.Optimizer(model, rule, lr=schedule.Cosine(0.5, 8))
    ema = ExponentialMovingAverage(model, momentum=0.75)
    for _ in range(steps):
        opt.step([jnp.full((2, 3), 0.25), jnp.float32(-2)])
        ema()
    raw = np.arange(1, 17, dtype=np.uint8) * (steps > 0)
    arrays = {f"other {name}": StateVar(jnp.asarray((raw % 2 if name == "bool" else raw).view(jnp.dtype(name))))
              for name in OTHERS}  # fmt: skip
    arrays["keys/threefry"] = StateVar(jax.random.split(jax.random.key(steps), 2))
    arrays["keys/rbg"] = StateVar(jax.random.key(steps, impl="rbg"))
    arrays["../Schlüssel"] = RandomState(steps)
    arrays["empty"] = StateVar(jnp.zeros((0, 3)))
    return model + opt.vars() + ema.vars() + VarCollection(arrays), [opt, ema]


def text_of(vc: VarCollection) -> list[str]:
    """Return the bits of all variables as lines of text."""
    def bits(x: jax.Array) -> bytes:
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()

    return [f"{name}\t{v.dtype}{list(v.shape)}\t{bits(v.value).hex()}" for name, v in vc.unique().items()]


if __name__ == "__main__":
    folder = Path(__file__).parent
    path = folder / f"v{io.FORMAT}.npz"
    if path.exists():
        sys.exit(f"{path} exists, and must not change.")
    vc, owners = golden_state(3)
    io.save_var_collection(path, vc)
    path.with_suffix(".txt").write_text("\n".join(text_of(vc)) + "\n", encoding="utf8")
