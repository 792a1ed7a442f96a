"""Make the golden traces of plug-ins, by torch and by declearn, in float64.

Not run by tests. To make them anew, from the root of the repository::

    python -m venv /tmp/peers && /tmp/peers/bin/pip install torch declearn==2.9.1 scikit-learn
    PYTHONPATH=. python tests/golden/federated/make_peers.py inputs /tmp/inputs.npz      with optimkit
    /tmp/peers/bin/python tests/golden/federated/make_peers.py traces /tmp/inputs.npz    without

Parameters and gradients are those of tests/federated/cases.py; a trace is ``peer:case:parameter``, the parameter after
each of ten steps at the learning rate 0.1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Vector = dict[str, np.ndarray]
LR = 0.1


def write_inputs(path: str) -> None:
    """Write the cases, parameters and gradients of the tests."""
    from tests.federated.cases import CASES, gradients, start

    cases = [[key, case.name, case.config, case.regularizer] for key, case in CASES.items()]
    arrays = {f"p:{k}": x for k, x in start().items()}
    arrays |= {f"g:{k}": np.stack([g[k] for g in gradients()]) for k in start()}
    np.savez(path, cases=json.dumps(cases), **arrays)


def by_declearn(name: str, config: dict[str, Any], regularizer: bool, params: Vector, grads: list[Vector]) -> Any:
    """Return the parameters after each step of declearn's gradient descent with one plug-in."""
    from declearn.model.sklearn import NumpyVector
    from declearn.optimizer.modules import OptiModule
    from declearn.optimizer.regularizers import Regularizer

    plugin = (Regularizer if regularizer else OptiModule).from_specs(name, config)
    weights, found = NumpyVector(params), []
    for g in map(NumpyVector, grads):
        direction = plugin.run(g, weights) if regularizer else plugin.run(g)
        weights = weights - LR * direction
        found.append(weights.coefs)
    return found


def by_torch(key: str, params: Vector, grads: list[Vector]) -> Any:
    """Return the parameters after each step of torch, where its algorithm is the same; else None."""
    import torch

    makes = {
        "momentum": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
        "nesterov": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.7, nesterov=True),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=LR, eps=1e-3),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=LR, alpha=0.8, eps=1e-7),
        "adam": lambda p: torch.optim.Adam(p, lr=LR, betas=(0.9, 0.99), eps=1e-7),
    }
    if key not in makes:
        return None
    tensors = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in params.items()}
    optimizer, found = makes[key](list(tensors.values())), []
    for g in grads:
        for k, p in tensors.items():
            p.grad = torch.tensor(g[k])
        optimizer.step()
        found.append({k: p.detach().numpy().copy() for k, p in tensors.items()})
    return found


def write_traces(path: str) -> None:
    """Write the traces of all cases, beside this file."""
    import declearn
    import torch

    given = np.load(path)
    params = {k[2:]: given[k] for k in given if k.startswith("p:")}
    grads = [{k: given[f"g:{k}"][t] for k in params} for t in range(10)]
    arrays, names = {}, []
    for key, name, config, regularizer in json.loads(str(given["cases"])):
        for peer, trace in (("declearn", by_declearn(name, config, regularizer, params, grads)),
                            ("torch", by_torch(key, params, grads))):  # fmt: skip
            if trace is not None:
                names.append(f"{peer}:{key}")
                arrays |= {f"{peer}:{key}:{k}": np.stack([step[k] for step in trace]) for k in params}
    versions = f"declearn {declearn.__version__}, torch {torch.__version__}"
    np.savez_compressed(Path(__file__).with_name("peers.npz"), cases=np.array(names), made_by=versions, **arrays)


if __name__ == "__main__":
    {"inputs": write_inputs, "traces": write_traces}[sys.argv[1]](sys.argv[2])
