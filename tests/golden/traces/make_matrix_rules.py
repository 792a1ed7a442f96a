"""Make the golden traces of the rules that look at matrices, and of their neighbours, with other people's code.

Not run by tests. To make them anew::

    python -m venv /tmp/traces && /tmp/traces/bin/pip install torch pytorch-optimizer galore-torch jax optax flax chex
    /tmp/traces/bin/pip install --no-deps muon-optimizer adam-mini psgd-jax
    /tmp/traces/bin/python tests/golden/traces/make_matrix_rules.py [NAME ...]

Each function below makes one ``NAME.npz``: parameters after every tenth of 100 steps, as float64 arrays called
``STEP/PARAMETER``, and ``meta``, which says by JSON which code of which version made it, from which inputs.
``tests/contrib/golden.py`` draws the same inputs from the seed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 100
SHAPES = {"bias": (2,), "scale": (), "weight": (2, 3)}


def inputs(seed: int, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return parameters and gradients, float32 numbers in float64 arrays. tests/contrib/golden.py does the same."""
    rng = np.random.default_rng(seed)
    params = {n: np.zeros(s) if n == "bias" else np.asarray(rng.normal(size=s)) for n, s in shapes.items()}
    drift = {n: np.asarray(rng.normal(size=s)) for n, s in shapes.items()}
    grads = [{n: drift[n] + rng.normal(size=s) for n, s in shapes.items()} for _ in range(STEPS)]
    rounded = [{n: np.asarray(x, np.float32).astype(np.float64) for n, x in tree.items()} for tree in (params, *grads)]
    return rounded[0], rounded[1:]


def save(name: str, trajectory: list[dict[str, Any]], *, packages: list[str], made_by: str, **meta: Any) -> None:
    """Write a trace."""
    versions = {p: importlib.metadata.version(p) for p in [*packages, "numpy"]}
    arrays = {
        f"{t}/{n}": np.asarray(x, np.float64)
        for t, step in enumerate(trajectory, 1) if t % 10 == 0 for n, x in step.items()
    }  # fmt: skip
    text = json.dumps({"made_by": made_by, "versions": versions, **meta})
    np.savez_compressed(Path(__file__).parent / f"{name}.npz", meta=np.array(text), **arrays)


def run_torch(make: Callable[[dict[str, Any]], Any], seed: int, shapes: dict[str, tuple[int, ...]], dtype: str,
              steps: int = STEPS) -> list[dict[str, Any]]:  # fmt: skip
    """Return the parameters after each step of a torch optimizer."""
    import torch

    params, grads = inputs(seed, shapes)
    kind = getattr(torch, dtype)
    tensors = {n: torch.nn.Parameter(torch.tensor(p, dtype=kind)) for n, p in params.items()}
    optimizer = make(tensors)
    trajectory = []
    for grad in grads[:steps]:
        for n, p in tensors.items():
            p.grad = torch.tensor(grad[n], dtype=kind)
        optimizer.step()
        trajectory.append({n: p.detach().numpy().copy() for n, p in tensors.items()})
    return trajectory


def muon() -> None:
    """KellerJordan's package. Its bfloat16 is replaced by the parameters' dtype, which is what can be compared."""
    import torch
    from muon import SingleDeviceMuonWithAuxAdam

    shapes = {**SHAPES, "tall": (6, 2), "embed": (3, 2)}
    torch.Tensor.bfloat16 = lambda self: self  # type: ignore[method-assign,assignment]

    def make(p: dict[str, Any]) -> Any:
        matrices = [p["weight"], p["tall"]]
        others = [p[n] for n in ("bias", "scale", "embed")]
        return SingleDeviceMuonWithAuxAdam([
            {"params": matrices, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "use_muon": True},
            {"params": others, "lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.01, "use_muon": False},
        ])  # fmt: skip

    trajectory = run_torch(make, 1, shapes, "float64")
    save("Muon", trajectory, packages=["muon-optimizer", "torch"], made_by="muon.SingleDeviceMuonWithAuxAdam, its "
         "Newton-Schulz steps in float64 instead of bfloat16", seed=1, shapes=shapes, lr=0.02)  # fmt: skip


def muon_moonshot() -> None:
    """PyTorch's own Muon, which has Moonshot's scale; bfloat16 is replaced as in ``muon``."""
    import torch

    shapes = {"weight": (2, 3), "tall": (6, 2)}
    torch.bfloat16 = torch.float64  # type: ignore[misc]

    def make(p: dict[str, Any]) -> Any:
        return torch.optim.Muon(p.values(), lr=1e-2, weight_decay=0.1, momentum=0.9, nesterov=False, eps=1e-7,
                                adjust_lr_fn="match_rms_adamw")  # fmt: skip

    trajectory = run_torch(make, 2, shapes, "float64")
    save("Muon_moonshot", trajectory, packages=["torch"], made_by="torch.optim.Muon, its Newton-Schulz steps in "
         "float64 instead of bfloat16", seed=2, shapes=shapes, lr=1e-2)  # fmt: skip


def soap() -> None:
    """pytorch-optimizer's SOAP, which is the authors' first published version; it decomposes in float32."""
    from pytorch_optimizer import SOAP

    shapes = {**SHAPES, "kernel": (3, 2, 4)}

    def make(p: dict[str, Any]) -> Any:
        return SOAP(p.values(), lr=3e-3, betas=(0.95, 0.9), shampoo_beta=0.8, weight_decay=0.0,
                    precondition_frequency=10)  # fmt: skip

    save("SOAP", run_torch(make, 3, shapes, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.SOAP", seed=3, shapes=shapes, lr=3e-3)  # fmt: skip


def soap_options() -> None:
    """The same with axes merged up to 8, and N normalised; its decompositions in float64 instead of float32.

    It cannot take what would become a single axis.
    """
    import torch
    from pytorch_optimizer import SOAP

    # No axis is longer by two than all others together: bases of what no gradient has been in are any.
    shapes = {"weight": (4, 5), "kernel": (3, 2, 5)}

    def make(p: dict[str, Any]) -> Any:
        return SOAP(p.values(), lr=3e-3, betas=(0.95, 0.9), weight_decay=0.0, precondition_frequency=7, merge_dims=True,
                    max_precondition_dim=8, normalize_gradient=True)  # fmt: skip

    float32, torch.float32 = torch.float32, torch.float64  # type: ignore[misc]
    trajectory = run_torch(make, 13, shapes, "float64")
    torch.float32 = float32  # type: ignore[misc]
    save("SOAP_options", trajectory, packages=["pytorch-optimizer", "torch"], made_by="pytorch_optimizer.SOAP, "
         "merge_dims and normalize_gradient, its decompositions in float64", seed=13, shapes=shapes,
         lr=3e-3)  # fmt: skip


def shampoo() -> None:
    """pytorch-optimizer's Shampoo, which is the paper's Algorithm 2, without momentum."""
    from pytorch_optimizer import Shampoo

    shapes = {"weight": (2, 3), "kernel": (3, 2, 4)}  # it cannot take scalars, and is wrong for vectors: G Gᵀ is a sum

    def make(p: dict[str, Any]) -> Any:
        return Shampoo(p.values(), lr=1e-2, preconditioning_compute_steps=1, matrix_eps=1e-12)

    save("Shampoo", run_torch(make, 4, shapes, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.Shampoo", seed=4, shapes=shapes, lr=1e-2)  # fmt: skip


def shampoo_grafted() -> None:
    """pytorch-optimizer's ScalableShampoo, a port of Google's distributed Shampoo."""
    from pytorch_optimizer import ScalableShampoo
    from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting

    shapes = {"weight": (2, 3), "tall": (6, 2)}

    def make(p: dict[str, Any]) -> Any:
        return ScalableShampoo(p.values(), lr=1e-2, betas=(0.9, 0.95), start_preconditioning_step=1,
                               preconditioning_compute_steps=1, graft_type=LayerWiseGrafting.ADAGRAD, nesterov=True,
                               shape_interpretation=False, matrix_eps=1e-12, use_svd=True)  # fmt: skip

    save("Shampoo_grafted", run_torch(make, 5, shapes, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.ScalableShampoo", seed=5, shapes=shapes, lr=1e-2)  # fmt: skip


def galore() -> None:
    """The authors' package: their projector and AdamW, without what else it imports (transformers, bitsandbytes)."""
    stubs = {name: types.ModuleType(name) for name in ("transformers", "transformers.utils", "galore_torch")}
    stubs["transformers.utils.versions"] = versions = types.ModuleType("versions")
    versions.require_version = lambda *_: None  # type: ignore[attr-defined]
    found = importlib.util.find_spec("galore_torch")
    stubs["galore_torch"].__path__ = found.submodule_search_locations  # type: ignore[union-attr,assignment]
    sys.modules |= stubs
    from galore_torch.adamw import AdamW

    shapes = {**SHAPES, "tall": (4, 3)}

    def make(p: dict[str, Any]) -> Any:
        low = {"rank": 1, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
        return AdamW([{"params": [p["weight"], p["tall"]], **low}, {"params": [p["bias"], p["scale"]]}], lr=1e-2,
                     betas=(0.9, 0.99), eps=1e-8, no_deprecation_warning=True)  # fmt: skip

    save("GaLore", run_torch(make, 6, shapes, "float32"), packages=["galore-torch", "torch"],
         made_by="galore_torch.adamw.AdamW", seed=6, shapes=shapes, lr=1e-2)  # fmt: skip


def galore_turning() -> None:
    """The same with a new projection every 10 steps, whose vectors have the signs that are nearest to the old ones'.

    In the package they have those that a decomposition happens to give, by which moments that are kept change sign.
    """
    import torch

    galore()  # which makes the package importable
    from galore_torch.adamw import AdamW
    from galore_torch.galore_projector import GaLoreProjector

    plain = GaLoreProjector.get_orthogonal_matrix

    def turned(self: Any, weights: Any, rank: int, type: str) -> Any:
        new, old, axis = plain(self, weights, rank, type), self.ortho_matrix, 1 if type == "right" else 0
        return new if old is None else new * torch.where((new * old).sum(axis, keepdim=True) < 0, -1.0, 1.0)

    GaLoreProjector.get_orthogonal_matrix = turned  # type: ignore[method-assign]
    shapes = {**SHAPES, "tall": (4, 3), "wide": (3, 5)}

    def make(p: dict[str, Any]) -> Any:
        low = {"rank": 2, "update_proj_gap": 10, "scale": 0.25, "proj_type": "std"}
        return AdamW([{"params": [p["tall"], p["wide"]], **low}, {"params": [p["weight"]], **low, "rank": 1},
                      {"params": [p["bias"], p["scale"]]}], lr=1e-2, betas=(0.9, 0.99), eps=1e-8,
                     no_deprecation_warning=True)  # fmt: skip

    save("GaLore_turning", run_torch(make, 14, shapes, "float32"), packages=["galore-torch", "torch"],
         made_by="galore_torch.adamw.AdamW, its singular vectors with the signs nearest to the old ones", seed=14,
         shapes=shapes, lr=1e-2)  # fmt: skip


def adam_mini() -> None:
    """The authors' package. Its names of modules: those of a transformer in PyTorch, outputs first."""
    from adam_mini import Adam_mini

    shapes = {"embed.weight": (5, 4), "wq.weight": (4, 4), "wk.weight": (2, 4), "mlp.weight": (3, 4),
              "mlp.bias": (3,), "norm.weight": (4,)}  # fmt: skip

    def make(p: dict[str, Any]) -> Any:
        return Adam_mini(list(p.items()), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, dim=4, n_heads=2,
                         verbose=False)  # fmt: skip

    save("AdamMini", run_torch(make, 7, shapes, "float64"), packages=["adam-mini", "torch"],
         made_by="adam_mini.Adam_mini", seed=7, shapes=shapes, lr=1e-2)  # fmt: skip


def mars() -> None:
    """pytorch-optimizer's MARS, which is the authors' code but for speed."""
    from pytorch_optimizer import MARS

    def make(p: dict[str, Any]) -> Any:
        return MARS(p.values(), lr=3e-3, betas=(0.95, 0.99), gamma=0.025, mars_type="adamw", optimize_1d=True,
                    weight_decay=0.1, foreach=False)  # fmt: skip

    # It decays first, p ← (1 - lr λ) p - lr u, which is what the rule does at once.
    save("MARS", run_torch(make, 8, SHAPES, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.MARS", seed=8, shapes=SHAPES, lr=3e-3)  # fmt: skip


def mars_lion() -> None:
    """pytorch-optimizer's MARS with Lion."""
    from pytorch_optimizer import MARS

    def make(p: dict[str, Any]) -> Any:
        return MARS(p.values(), lr=1e-3, betas=(0.9, 0.99), gamma=0.1, mars_type="lion", optimize_1d=True,
                    weight_decay=0.1, foreach=False)  # fmt: skip

    save("MARSLion", run_torch(make, 15, SHAPES, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.MARS, mars_type='lion'", seed=15, shapes=SHAPES, lr=1e-3)  # fmt: skip


def mars_shampoo() -> None:
    """pytorch-optimizer's MARS with Newton-Schulz steps, in the parameters' dtype in place of bfloat16."""
    import torch
    from pytorch_optimizer import MARS

    shapes = {**SHAPES, "tall": (6, 2)}
    bfloat16, torch.bfloat16 = torch.bfloat16, torch.float64  # type: ignore[misc]
    module = sys.modules["pytorch_optimizer.optimizer.mars"]
    plain = module.zero_power_via_newton_schulz_5
    module.zero_power_via_newton_schulz_5 = lambda x, eps: plain(x, eps=eps, dtype=torch.float64)

    def make(p: dict[str, Any]) -> Any:
        return MARS(p.values(), lr=3e-3, betas=(0.95, 0.99), gamma=0.05, mars_type="shampoo", optimize_1d=False,
                    lr_1d=1e-3, betas_1d=(0.9, 0.95), weight_decay=0.1, weight_decay_1d=0.2, foreach=False)  # fmt: skip

    trajectory = run_torch(make, 16, shapes, "float64")
    torch.bfloat16, module.zero_power_via_newton_schulz_5 = bfloat16, plain  # type: ignore[misc]
    save("MARSShampoo", trajectory, packages=["pytorch-optimizer", "torch"], made_by="pytorch_optimizer.MARS, "
         "mars_type='shampoo', its Newton-Schulz steps in float64", seed=16, shapes=shapes, lr=3e-3)  # fmt: skip


def sophia() -> None:
    """pytorch-optimizer's SophiaH, with estimates of a Hessian that is diagonal: arange(size) + 1, at each tenth step.

    It clips m / max(h, eps) at p, which is p times the paper's clip of m / max(p h, p eps) at 1.
    """
    import torch
    from pytorch_optimizer import SophiaH

    params, grads = inputs(9, SHAPES)
    tensors = {n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in params.items()}
    optimizer = SophiaH(tensors.values(), lr=0.2, betas=(0.96, 0.9), p=0.05, weight_decay=0.005, eps=1e-10,
                        update_period=10**9, foreach=False)  # fmt: skip
    hessian = [torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape) + 1 for p in tensors.values()]
    trajectory = []
    for t, grad in enumerate(grads):
        for n, p in tensors.items():
            p.grad = torch.tensor(grad[n], dtype=torch.float64)
        for p in tensors.values():
            optimizer.state[p].pop("hessian", None)  # else it averages an old estimate in again
        optimizer.param_groups[0]["step"] = 1
        optimizer.step(hessian=hessian if t % 10 == 0 else None)
        trajectory.append({n: p.detach().numpy().copy() for n, p in tensors.items()})
    save("Sophia", trajectory, packages=["pytorch-optimizer", "torch"], made_by="pytorch_optimizer.SophiaH",
         seed=9, shapes=SHAPES, lr=0.01)  # fmt: skip


def grokfast() -> None:
    """pytorch-optimizer's gradfilter_ema, the authors' function, before torch's AdamW."""
    import torch
    from pytorch_optimizer.optimizer.grokfast import gradfilter_ema

    class Filtered(torch.optim.AdamW):
        memory: Any = None

        def step(self, closure: Any = None) -> None:
            module = torch.nn.Module()
            for i, p in enumerate(self.param_groups[0]["params"]):
                module.register_parameter(f"p{i}", p)
            self.memory = gradfilter_ema(module, self.memory, alpha=0.98, lamb=2.0)
            super().step()

    def make(p: dict[str, Any]) -> Any:
        return Filtered(p.values(), lr=1e-2, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)

    save("GrokFast", run_torch(make, 10, SHAPES, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.gradfilter_ema and torch.optim.AdamW", seed=10, shapes=SHAPES, lr=1e-2)  # fmt: skip


def cautious() -> None:
    """pytorch-optimizer's Lion with its flag "cautious", the first version of the authors' line."""
    from pytorch_optimizer import Lion

    def make(p: dict[str, Any]) -> Any:
        return Lion(p.values(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1, cautious=True, foreach=False)

    save("Cautious_Lion", run_torch(make, 11, SHAPES, "float64"), packages=["pytorch-optimizer", "torch"],
         made_by="pytorch_optimizer.Lion, cautious=True", seed=11, shapes=SHAPES, lr=1e-2)  # fmt: skip


def kron() -> None:
    """psgd_jax's kron. Its normal noise is replaced by numbers that depend on the shape only, and it never balances."""
    import jax
    import jax.numpy as jnp
    import optax

    def fixed(key: Any, shape: Any = (), dtype: Any = float) -> Any:
        return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)

    optax._src.clipping = types.ModuleType("clipping")  # it is imported, and not used by kron
    jax.random.normal, jax.random.uniform = fixed, lambda key: jnp.float32(0.5)
    from psgd_jax.kron import kron as make

    transformation = make(3e-3, b1=0.9, preconditioner_update_probability=1.0, precond_update_precision="float32")
    params, grads = inputs(12, SHAPES)
    now = {n: jnp.asarray(p, jnp.float32) for n, p in params.items()}
    state, trajectory = transformation.init(now), []
    for grad in grads:
        updates, state = transformation.update({n: jnp.asarray(g, jnp.float32) for n, g in grad.items()}, state, now)
        now = optax.apply_updates(now, updates)
        trajectory.append({n: np.asarray(p) for n, p in now.items()})
    save("PSGDKron", trajectory, packages=["psgd-jax", "jax", "optax"], made_by="psgd_jax.kron.kron, with fixed noise",
         seed=12, shapes=SHAPES, lr=3e-3)  # fmt: skip


ALL = [muon, muon_moonshot, soap, soap_options, shampoo, shampoo_grafted, galore, galore_turning, adam_mini, mars,
       mars_lion, mars_shampoo, sophia, grokfast, cautious, kron]  # fmt: skip

if __name__ == "__main__":
    for make in ALL:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            make()
