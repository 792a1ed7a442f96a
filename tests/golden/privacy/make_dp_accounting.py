"""Make the golden table of privacy costs, with Google's dp-accounting.

Not run by tests. To make it anew::

    python3.11 -m venv /tmp/accounting && /tmp/accounting/bin/pip install dp-accounting
    /tmp/accounting/bin/python tests/golden/privacy/make_dp_accounting.py

It writes ``dp_accounting.json``, beside this file: the versions, the orders, and a list of trainings. Of each there are
the phases, [noise multiplier, sampling rate, steps]; the RDP for each order, fractional ones too; of integer orders
alone [δ, ε, best order] and [ε, δ, best order]; at the package's default orders [δ, ε]; and of its accountant of
privacy loss distributions, which is nearly exact, [δ, ε].
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.rdp import rdp_privacy_accountant

ORDERS = [1.1, 1.5, 1.9, 2.0, 2.3, 3.0, 4.7, 5.0, 7.9, 8.0, 10.9, 16.0, 32.0, 63.0, 128.0, 512.0, 1024.0]
INTEGERS = [*range(2, 64), 128, 256, 512, 1024]
TRAININGS = [
    # MNIST of the tutorials of TensorFlow Privacy, and the example of Abadi et al. 2016.
    [[1.3, 256 / 60000, 3516]], [[1.1, 256 / 60000, 14063]], [[0.7, 256 / 60000, 10547]], [[4.0, 0.01, 10000]],
    # From almost no noise to almost nothing but noise, from rare examples to all of them, one step and many.
    [[0.3, 0.001, 100]], [[0.5, 0.1, 10]], [[0.8, 0.5, 1]], [[1.0, 1e-6, 1000000]], [[2.0, 0.9, 7]],
    [[3.0, 0.999, 50]], [[8.0, 0.02, 300000]], [[20.0, 0.3, 2000]], [[1.0, 1.0, 1]], [[50.0, 1.0, 10000]],
    [[6.0, 1e-4, 50]],
    # Phases that differ.
    [[1.5, 0.01, 500], [0.9, 0.002, 4000], [5.0, 1.0, 3]],
]  # fmt: skip
DELTAS, EPSILONS = [1e-12, 1e-6, 1e-5, 0.01], [0.1, 1.0, 8.0]


def account(accountant: Any, phases: list[list[float]]) -> Any:
    """Return an accountant after some phases."""
    for sigma, q, steps in phases:
        event = dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma))
        accountant.compose(dp_event.SelfComposedDpEvent(event, int(steps)))
    return accountant


def row(phases: list[list[float]]) -> dict[str, Any]:
    """Return what the package says about a training."""
    rdp = rdp_privacy_accountant.RdpAccountant
    integers, default = account(rdp(INTEGERS), phases), account(rdp(), phases)
    tight = account(pld_privacy_accountant.PLDAccountant(), phases)
    return {
        "phases": phases,
        "rdp": [float(r) for r in account(rdp(ORDERS), phases)._rdp],
        "epsilons": [[d, *map(float, integers.get_epsilon_and_optimal_order(d))] for d in DELTAS],
        "deltas": [[e, *map(float, integers.get_delta_and_optimal_order(e))] for e in EPSILONS],
        "default_epsilons": [[d, float(default.get_epsilon(d))] for d in DELTAS],
        "tight_epsilons": [[d, float(tight.get_epsilon(d))] for d in DELTAS[1:]],
    }


def main() -> None:
    """Write the table."""
    made_by = {name: version(name) for name in ("dp-accounting", "numpy", "scipy")}
    made_by["python"] = platform.python_version()
    trainings = [row(phases) for phases in TRAININGS]
    table = {"made_by": made_by, "orders": ORDERS, "integers": INTEGERS, "trainings": trainings}
    (Path(__file__).parent / "dp_accounting.json").write_text(json.dumps(table, indent=1) + "\n", "utf8")


if __name__ == "__main__":
    main()
