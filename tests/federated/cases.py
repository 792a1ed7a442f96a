"""What the tests of plug-ins share: vectors, every plug-in with its oracle, and how an optimizer is run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optimkit import TrainVar, VarCollection, rules
from optimkit.federated import PluginOptimizer
from tests.oracles import federated as oracles

STEPS = 10


class Case(NamedTuple):
    """A plug-in by its specification, with its oracle."""

    name: str
    config: dict[str, Any]
    oracle: Any = None
    regularizer: bool = False

    def optimizer(self, lrate: Any = 0.1, **options: Any) -> PluginOptimizer:
        """Return an optimizer of it alone."""
        key = "regularizers" if self.regularizer else "modules"
        return PluginOptimizer(lrate, **{key: [(self.name, self.config)]}, **options)


CASES = {
    "momentum": Case("momentum", {}, oracles.oracle_momentum),
    "nesterov": Case("momentum", {"beta": 0.7, "nesterov": True}, oracles.oracle_momentum),
    "ewma": Case("ewma", {"beta": 0.8}, oracles.oracle_ewma),
    "yogi-momentum": Case("yogi-momentum", {"beta": 0.8}, oracles.oracle_yogi_momentum),
    "adagrad": Case("adagrad", {"eps": 1e-3}, oracles.oracle_adagrad),
    "rmsprop": Case("rmsprop", {"beta": 0.8}, oracles.oracle_rmsprop),
    "adam": Case("adam", {}, oracles.oracle_adam),
    "amsgrad": Case("adam", {"beta_1": 0.5, "beta_2": 0.6, "amsgrad": True, "eps": 1e-3}, oracles.oracle_adam),
    "yogi": Case("yogi", {}, oracles.oracle_yogi),
    "amsyogi": Case("yogi", {"beta_1": 0.5, "beta_2": 0.6, "amsgrad": True, "eps": 1e-3}, oracles.oracle_yogi),
    "l2-clipping": Case("l2-clipping", {"max_norm": 1.5}, oracles.oracle_l2_clipping),
    "l2-global-clipping": Case("l2-global-clipping", {"max_norm": 1.5}, oracles.oracle_l2_global_clipping),
    "fedprox": Case("fedprox", {"alpha": 0.5}, oracles.oracle_fedprox, regularizer=True),
    "lasso": Case("lasso", {"alpha": 0.5}, oracles.oracle_lasso, regularizer=True),
    "ridge": Case("ridge", {"alpha": 0.5}, oracles.oracle_ridge, regularizer=True),
}
OTHERS = {
    "gaussian-noise": Case("gaussian-noise", {"std": 0.5, "safe_mode": False, "seed": 3}),
    "laplacian-noise": Case("laplacian-noise", {"scale": 0.5, "safe_mode": False, "seed": 4}),
    "scaffold-client": Case("scaffold-client", {}),
    "scaffold-server": Case("scaffold-server", {}),
}
ALL = CASES | OTHERS


def start(dtype: Any = np.float64) -> dict[str, np.ndarray]:
    """Return parameters."""
    rng = np.random.default_rng(1)
    return {"layer.w": rng.normal(size=(3, 2)).astype(dtype), "b": np.array([0.5, 0.0], dtype)}


def gradients(dtype: Any = np.float64, steps: int = STEPS, seed: int = 2) -> list[dict[str, np.ndarray]]:
    """Return gradients that grow and shrink, so that clips cut some of them and maxima matter."""
    rng, params = np.random.default_rng(seed), start()
    sizes = [3.0, 0.1, 1.0, 0.3, 2.0, 0.01, 1.0, 0.5, 4.0, 0.2]
    return [{k: (sizes[t % 10] * rng.normal(size=p.shape)).astype(dtype) for k, p in params.items()}
            for t in range(steps)]  # fmt: skip


def moved(opt: PluginOptimizer, params: Any, grads: Any) -> list[dict[str, np.ndarray]]:
    """Return the parameters after each step."""
    found = []
    for g in grads:
        opt.apply_gradients(params, g)
        values = {k: v.value for k, v in params.items()} if isinstance(params, VarCollection) else params
        found.append({k: np.array(x) for k, x in values.items()})
    return found


def as_jax(vector: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return a vector of JAX."""
    return {k: jnp.asarray(x) for k, x in vector.items()}


def as_variables(vector: dict[str, np.ndarray]) -> VarCollection:
    """Return a vector of variables."""
    return VarCollection({k: TrainVar(jnp.asarray(x)) for k, x in vector.items()})


def same(a: Any, b: Any) -> bool:
    """Tell whether two trajectories, or two vectors, are equal to the last bit."""
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a.keys() == b.keys() and all(x.dtype == b[k].dtype and x.tobytes() == b[k].tobytes() for k, x in a.items())


def pipeline(**options: Any) -> PluginOptimizer:
    """Return an optimizer with something of every kind."""
    arguments = {
        "lrate": ("warmup", {"base": ("exponential-decay", {"base": 0.1, "rate": 0.5, "step_level": False}),
                             "warmup": 3}),
        "w_decay": ("linear-decay", {"base": 0.1, "rate": 0.05}),
        "regularizers": ["fedprox", ("lasso", {"alpha": 0.02})],
        "modules": ["scaffold-client", ("gaussian-noise", {"std": 0.1, "safe_mode": False, "seed": 5}),
                    ("l2-global-clipping", {"max_norm": 2.0}), ("adam", {"amsgrad": True, "round_reset": True}),
                    ("momentum", {"beta": 0.5}), rules.Lion()],
    }  # fmt: skip
    return PluginOptimizer(**{**arguments, **options})
