"""Make the golden traces of sharpness-aware minimization and Schedule-Free learning, with other people's code.

Not run by tests. To make them anew::

    python -m venv /tmp/traces && /tmp/traces/bin/pip install torch schedulefree pytorch-optimizer
    /tmp/traces/bin/python tests/golden/traces/make_wrappers.py

Each is a ``NAME.npz`` of the form that make_matrix_rules.py, beside this file, describes. Of Schedule-Free learning
``NAME_x.npz`` has the average, at which the model is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from make_matrix_rules import SHAPES, inputs, save


def arrays(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return copies of tensors."""
    return {n: p.detach().numpy().copy() for n, p in tensors.items()}


def schedule_free(name: str, make: Callable[[Any], Any], lr: Any, seed: int, made_by: str,
                  shapes: dict[str, Any] = SHAPES) -> None:  # fmt: skip
    """Write y and x of an optimizer of the authors' package; ``lr`` is what it uses, a number or one for each step."""
    params, grads = inputs(seed, shapes)
    tensors = {n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in params.items()}
    optimizer = make(tensors.values())
    optimizer.train()
    ys, xs = [], []
    for grad in grads:
        for n, p in tensors.items():
            p.grad = torch.tensor(grad[n], dtype=torch.float64)
        optimizer.step()
        ys.append(arrays(tensors))
        optimizer.eval()
        xs.append(arrays(tensors))
        optimizer.train()
    for suffix, way in (("", ys), ("_x", xs)):
        save(name + suffix, way, packages=["schedulefree", "torch"], made_by=made_by, seed=seed, shapes=shapes, lr=lr)


def sharp(name: str, make: Callable[[Any], Any], shapes: dict[str, Any], seed: int, made_by: str, lr: float) -> None:
    """Write a trace of an optimizer that asks for the gradient at q: g + (q - p), as in ``optimkit.testing``."""
    params, grads = inputs(seed, shapes)
    tensors = {n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in params.items()}
    optimizer, way = make(tensors.values()), []
    for grad in grads:
        start = {n: p.detach().clone() for n, p in tensors.items()}

        def closure(grad: Any = grad, start: Any = start) -> Any:
            for n, p in tensors.items():
                p.grad = torch.tensor(grad[n], dtype=torch.float64) + (p.detach() - start[n])
            return torch.zeros(())

        closure()
        optimizer.step(closure)
        way.append(arrays(tensors))
    save(name, way, packages=["pytorch-optimizer", "torch"], made_by=made_by, seed=seed, shapes=shapes, lr=lr)


def main() -> None:
    """Write all traces of this file."""
    from pytorch_optimizer import SAM, LookSAM
    from schedulefree import AdamWScheduleFree, RAdamScheduleFree, ScheduleFreeWrapper, SGDScheduleFree

    warm = [0.5 * min(1.0, t / 10) for t in range(1, 101)]
    schedule_free("ScheduleFreeSGD", lambda p: SGDScheduleFree(p, lr=0.5, weight_decay=0.1, warmup_steps=10), warm, 21,
                  "schedulefree.SGDScheduleFree(lr=0.5, weight_decay=0.1, warmup_steps=10)")  # fmt: skip
    schedule_free("ScheduleFreeAdamW", lambda p: AdamWScheduleFree(p, lr=0.02, weight_decay=0.1, r=0.5), 0.02, 22,
                  "schedulefree.AdamWScheduleFree(lr=0.02, weight_decay=0.1, r=0.5)")  # fmt: skip
    schedule_free("ScheduleFreeRAdam", lambda p: RAdamScheduleFree(p, lr=0.02, weight_decay=0.1), 0.02, 23,
                  "schedulefree.RAdamScheduleFree(lr=0.02, weight_decay=0.1)")  # fmt: skip
    schedule_free("ScheduleFree", lambda p: ScheduleFreeWrapper(torch.optim.SGD(p, lr=0.1, momentum=0.5)), 0.1, 24,
                  "schedulefree.ScheduleFreeWrapper(torch.optim.SGD(lr=0.1, momentum=0.5))",
                  {"bias": (2,), "weight": (2, 3)})  # fmt: skip

    sgd = {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9}
    sharp("SAM", lambda p: SAM(p, rho=0.5, **sgd), SHAPES, 25, "pytorch_optimizer.SAM(SGD(momentum=0.9), rho=0.5)", 0.1)
    sharp("ASAM", lambda p: SAM(p, rho=0.5, adaptive=True, **sgd), SHAPES, 26,
          "pytorch_optimizer.SAM(SGD(momentum=0.9), rho=0.5, adaptive=True)", 0.1)  # fmt: skip
    sharp("LookSAM", lambda p: LookSAM(p, rho=2.0, k=5, alpha=0.7, adaptive=True, **sgd), {"weight": (2, 3)}, 27,
          "pytorch_optimizer.LookSAM(SGD(momentum=0.9), rho=2.0, k=5, alpha=0.7, adaptive=True)", 0.1)  # fmt: skip


if __name__ == "__main__":
    main()
