"""The code of the rules' authors, on the problems of learning_rate_free.py.

    pip install torch scikit-learn mlxtend
    pip install --no-deps prodigyopt dadaptation dog-optimizer parameterfree momo-opt mechanic-pytorch
    python benchmarks/learning_rate_free_authors.py [NAME ...]

The same initial values, batches, schedules and points of evaluation, in float32, one seed after the other: it says
whether a rule that misses does so by itself or by our hand. DoWG's authors have no package; optax's is run for it. The
figures go to benchmarks/results/learning_rate_free_authors.json; ``python benchmarks/learning_rate_free_report.py``
puts them into the tables.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import learning_rate_free as ours
import numpy as np
import torch
from learning_rate_free_report import AUTHORS as RESULTS

GAMMA = 8


def makers() -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Return by contestant the package and a function from parameters to an optimizer."""
    from dadaptation import DAdaptAdam
    from dog import DoG, LDoG
    from mechanic_pytorch import mechanize
    from momo import Momo, MomoAdam
    from parameterfree import COCOB
    from prodigyopt import Prodigy

    return {
        "Prodigy": ("prodigyopt", lambda p: Prodigy(p, lr=1.0)),
        "DAdaptAdamW": ("dadaptation", lambda p: DAdaptAdam(p, lr=1.0, decouple=True)),
        "Mechanic(Adam)": ("mechanic-pytorch", lambda p: mechanize(torch.optim.Adam)(p, lr=1.0)),
        "Mechanic(Momentum)": ("mechanic-pytorch", lambda p: mechanize(torch.optim.SGD)(p, lr=1.0, momentum=0.9)),
        "DoG": ("dog-optimizer", lambda p: DoG(p)),
        "LDoG": ("dog-optimizer", lambda p: LDoG(p)),
        "COCOB": ("parameterfree", lambda p: COCOB(p)),
        "MoMo": ("momo-opt", lambda p: Momo(p, lr=1.0)),
        "MoMo, adaptive bound": ("momo-opt", lambda p: Momo(p, lr=1.0, use_fstar=True)),
        "MoMoAdam": ("momo-opt", lambda p: MomoAdam(p, lr=1.0)),
        "MoMoAdam, lr = 0.01": ("momo-opt", lambda p: MomoAdam(p, lr=0.01)),
        "DoWG": ("optax", DoWG),
    }


class DoWG:
    """optax's DoWG, with the face of an optimizer of torch."""

    def __init__(self, params: list[torch.Tensor]):
        import jax
        import optax

        self.params, self.param_groups = params, [{"lr": 1.0}]
        tx = optax.contrib.dowg()
        # Copies: the state keeps these parameters, and steps are made in place.
        self.state, self.update = tx.init([jax.numpy.array(p.detach().numpy()) for p in params]), jax.jit(tx.update)

    def step(self) -> None:
        grads, params = ([a.detach().numpy() for a in x] for x in ([p.grad for p in self.params], self.params))
        updates, self.state = self.update(grads, self.state, params)
        with torch.no_grad():
            for p, u in zip(self.params, updates, strict=True):
                p.add_(torch.from_numpy(self.param_groups[0]["lr"] * np.array(u)))


def objective(problem: ours.Problem, p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return what ``Problem.objective`` does."""
    logits = torch.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"] if problem.hidden else x @ p["w"] + p["b"]
    squares = sum((w**2).sum() for name, w in p.items() if name.startswith("w"))
    return torch.nn.functional.cross_entropy(logits, y) + problem.penalty / 2 * squares


def train(problem: ours.Problem, contestant: ours.Contestant, make: Callable[[Any], Any], seed: int) -> float:
    """Return the objective after the last step, at the point of evaluation."""
    x, y = torch.from_numpy(problem.train[0]), torch.from_numpy(problem.train[1].astype(np.int64))
    p = {name: torch.tensor(np.asarray(a), requires_grad=True) for name, a in problem.initial(seed).items()}
    average = {name: a.detach().clone() for name, a in p.items()}
    optimizer, (lr,) = make(list(p.values())), contestant.lrs
    values = ours.path(contestant.schedule, ours.STEPS)
    for t, batch in enumerate(problem.batches(seed, ours.STEPS).astype(np.int64), 1):
        for group in optimizer.param_groups:
            group["lr"] = float(lr * values[t - 1])
        for a in p.values():
            a.grad = None
        loss = objective(problem, p, x[batch], y[batch])
        loss.backward()
        optimizer.step(**({"loss": loss.detach()} if contestant.rule.needs else {}))
        with torch.no_grad():
            for name, a in p.items():
                average[name] += (GAMMA + 1) / (GAMMA + t) * (a - average[name])
    return float(objective(problem, average if contestant.point == "average" else p, x, y).detach())


def main(names: list[str]) -> None:
    known = makers()
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf8")) if RESULTS.exists() else {"versions": {}, "runs": {}}
    found["versions"]["torch"] = version("torch")
    tasks = ours.problems()
    pairs = [(c, p) for c in ours.contestants() for p in tasks if c.name in known]
    for contestant, problem in ours.progress([(c, p) for c, p in pairs if not names or c.name in names]):
        package, make = known[contestant.name]
        found["versions"][package] = version(package)
        each = [train(problem, contestant, make, seed) for seed in ours.SEEDS]
        row = found["runs"].setdefault(contestant.name, {"package": package})
        row[problem.name] = [float(f"{v:.6g}") if math.isfinite(v) else None for v in each]
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf8")


if __name__ == "__main__":
    main(sys.argv[1:])
