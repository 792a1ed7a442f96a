"""Make the golden traces of rules that find their learning rate, and of newer relatives of Adam.

Not run by tests. To make them anew::

    python -m venv /tmp/traces && /tmp/traces/bin/pip install torch pytorch-optimizer optax
    /tmp/traces/bin/pip install --no-deps prodigyopt dadaptation dog-optimizer parameterfree madgrad momo-opt
    /tmp/traces/bin/pip install --no-deps mechanic-pytorch
    /tmp/traces/bin/python tests/golden/traces/make_learning_rate_free.py [NAME ...]

The form is that of ``make_matrix_rules.py``. All but those of pytorch-optimizer and of optax are made by the code of
the algorithm's authors. Everything is computed in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from make_matrix_rules import SHAPES, STEPS, inputs, run_torch, save

Params = dict[str, Any]


def trace(name: str, made_by: str, package: str, make: Callable[[Params], Any], seed: int, lr: float = 1.0) -> None:
    """Make a trace by a torch optimizer."""
    import torch

    torch.set_default_dtype(torch.float64)
    save(name, run_torch(make, seed, SHAPES, "float64"), packages=[package, "torch"], made_by=made_by, seed=seed,
         shapes=SHAPES, lr=lr)  # fmt: skip


class OnLoss:
    """An optimizer whose step is told a loss of 1."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def step(self) -> None:
        """Step."""
        import torch

        self.optimizer.step(loss=torch.tensor(1.0))


def prodigy() -> None:
    """Prodigy, as it is and with all its options.

    The gradients have no solution: at a learning rate of 1 the distance to it grows without end.
    """
    from prodigyopt import Prodigy

    trace("Prodigy", "prodigyopt.Prodigy", "prodigyopt",
          lambda p: Prodigy(p.values(), lr=0.1, weight_decay=0.01), 11, 0.1)  # fmt: skip
    trace("Prodigy_options", "prodigyopt.Prodigy", "prodigyopt",
          lambda p: Prodigy(p.values(), lr=0.5, betas=(0.8, 0.99), beta3=0.9, d_coef=2.0, growth_rate=1.2, d0=1e-4,
                            use_bias_correction=True, safeguard_warmup=True), 12, 0.5)  # fmt: skip


def dadapt_adamw() -> None:
    """D-Adaptation, as it is and with all its options."""
    from dadaptation import DAdaptAdam

    trace("DAdaptAdamW", "dadaptation.DAdaptAdam", "dadaptation",
          lambda p: DAdaptAdam(p.values(), lr=0.2, decouple=True, weight_decay=0.01), 13, 0.2)  # fmt: skip
    trace("DAdaptAdamW_options", "dadaptation.DAdaptAdam", "dadaptation",
          lambda p: DAdaptAdam(p.values(), lr=0.5, betas=(0.8, 0.99), d0=1e-4, growth_rate=1.2, decouple=True,
                               use_bias_correction=True), 14, 0.5)  # fmt: skip


def dog() -> None:
    """DoG and L-DoG."""
    from dog import DoG, LDoG

    trace("DoG", "dog.DoG", "dog-optimizer", lambda p: DoG(p.values()), 15)
    trace("LDoG", "dog.LDoG", "dog-optimizer", lambda p: LDoG(p.values(), reps_rel=1e-4), 16)


def cocob() -> None:
    """COCOB."""
    from parameterfree import COCOB

    trace("COCOB", "parameterfree.COCOB", "parameterfree", lambda p: COCOB(p.values()), 17)


def madgrad() -> None:
    """MADGRAD. Its code adds eps to the learning rate, which is taken off before."""
    from madgrad import MADGRAD

    trace("MADGRAD", "madgrad.MADGRAD", "madgrad", lambda p: MADGRAD(p.values(), lr=0.01 - 1e-6), 18, 0.01)
    trace("MADGRAD_without_momentum", "madgrad.MADGRAD", "madgrad",
          lambda p: MADGRAD(p.values(), lr=0.01 - 1e-3, momentum=0.0, eps=1e-3), 19, 0.01)  # fmt: skip


def momo() -> None:
    """MoMo and MoMo-Adam, on losses of 1, with fixed and with adaptive lower bounds."""
    from momo import Momo, MomoAdam

    trace("MoMo", "momo.Momo", "momo-opt", lambda p: OnLoss(Momo(p.values(), lr=1.0, weight_decay=0.01)), 20)
    trace("MoMo_options", "momo.Momo", "momo-opt",
          lambda p: OnLoss(Momo(p.values(), lr=1.0, lb=-1.0, beta=0.8, bias_correction=True, use_fstar=True)),
          21)  # fmt: skip
    trace("MoMoAdam", "momo.MomoAdam", "momo-opt",
          lambda p: OnLoss(MomoAdam(p.values(), lr=0.3, weight_decay=0.01)), 22, 0.3)  # fmt: skip
    trace("MoMoAdam_options", "momo.MomoAdam", "momo-opt",
          lambda p: OnLoss(MomoAdam(p.values(), lr=0.3, betas=(0.8, 0.99), lb=-1.0, use_fstar=True)),
          23, 0.3)  # fmt: skip


def mechanic() -> None:
    """Mechanic around SGD with momentum; without its decay, for which the code takes parameters of after the step."""
    import torch
    from mechanic_pytorch import mechanize

    trace("Mechanic", "mechanic_pytorch.mechanize(torch.optim.SGD)", "mechanic-pytorch",
          lambda p: mechanize(torch.optim.SGD, s_decay=0.0, store_delta=True)(p.values(), lr=1.0, momentum=0.9),
          24)  # fmt: skip


def adam_variants() -> None:
    """pytorch-optimizer's AdEMAMix, and its ADOPT, whose clipping is one step ahead."""
    from pytorch_optimizer import ADOPT, AdEMAMix

    trace("AdEMAMix", "pytorch_optimizer.AdEMAMix", "pytorch-optimizer",
          lambda p: AdEMAMix(p.values(), lr=1e-2, weight_decay=0.1, weight_decouple=True, foreach=False),
          25, 1e-2)  # fmt: skip
    trace("AdEMAMix_warmup", "pytorch_optimizer.AdEMAMix", "pytorch-optimizer",
          lambda p: AdEMAMix(p.values(), lr=1e-2, betas=(0.8, 0.99, 0.999), alpha=8.0, t_alpha_beta3=60, foreach=False),
          26, 1e-2)  # fmt: skip
    trace("ADOPT", "pytorch_optimizer.ADOPT, its clipping by the number of the step before", "pytorch-optimizer",
          lambda p: ADOPT(p.values(), lr=1e-2, betas=(0.9, 0.99), clip_lambda=lambda step: (step - 1) ** 0.25,
                          foreach=False), 27, 1e-2)  # fmt: skip


def by_optax() -> None:
    """optax, where the authors' code is on no index: DoWG, Simplified-AdEMAMix, and ACProp.

    Of ACProp the first step is left out, which differs. Its s takes the mean of before the gradient, which makes it
    larger by 1 / b1²; so does eps, which stands beside its root, and the learning rate makes good for both.
    """
    import jax
    from optax import contrib

    jax.config.update("jax_enable_x64", True)

    def run(tx: Any, seed: int, still: bool = False) -> list[Params]:
        params, grads = inputs(seed, SHAPES)
        state, trajectory = tx.init(params), []
        for t, grad in enumerate(grads):
            updates, state = tx.update(grad, state, params)
            if not (still and t == 0):
                params = {n: p + updates[n] for n, p in params.items()}
            trajectory.append(params)
        return trajectory

    for name, tx, seed, lr, still in [
        ("DoWG", contrib.dowg(), 28, 1.0, False),
        ("SimplifiedAdEMAMix", contrib.simplified_ademamix(1e-3, alpha=2.0, weight_decay=0.1), 29, 1e-3, False),
        ("ACProp", contrib.acprop(1e-2 / 0.9, b1=0.9, eps=1e-8 / 0.9, eps_root=0.0), 30, 1e-2, True),
    ]:
        save(name, run(tx, seed, still), packages=["optax", "jax"], made_by=f"optax.contrib, {name}", seed=seed,
             shapes=SHAPES, lr=lr)  # fmt: skip


ALL = [prodigy, dadapt_adamw, dog, cocob, madgrad, momo, mechanic, adam_variants, by_optax]

if __name__ == "__main__":
    assert STEPS == 100
    for make in ALL:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            make()
