"""One test of pytest for each optimizer and check."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from optimkit.errors import ConformanceError
from optimkit.rules.base import Tree
from optimkit.testing.check import NotApplicable
from optimkit.testing.properties import EXAMPLES
from optimkit.testing.subjects import subject
from optimkit.testing.suite import CHECKS, options_of, selected


def parametrize_with_checks(
    optimizers: Iterable[Any],
    *,
    params: Tree = None,
    expected_failures: Mapping[str, str] | None = None,
    max_examples: int = EXAMPLES,
) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes a test of each optimizer and check, for pytest to run, select and distribute.

    The test takes ``optimizer`` and ``check`` and calls ``check(optimizer)``. Checks that are expected to fail are
    marked xfail, and must fail; those that have nothing to say about an optimizer are left out where that is known in
    advance, and skipped otherwise. ``check_oracle`` is left out: call it by itself.

    Args:
        optimizers: what :func:`check_optimizer` takes.
        params: parameters to run them on.
        expected_failures: names of checks that they do not pass, each with the reason.
        max_examples: how many examples each check of a property draws.

    Raises:
        ConformanceError: an expected failure is no check.

    Example::

        @parametrize_with_checks([MyRule(0.9), optax.adam(1e-3)])
        def test_conforms(optimizer, check):
            check(optimizer)
    """
    import pytest

    expected = dict(expected_failures or {})
    selected(None, expected)
    cases = []
    for obj in optimizers:
        rule = subject(obj)
        for name, function in CHECKS.items():
            if name.startswith("check_oracle") or function.only(rule):  # type: ignore[attr-defined]
                continue
            reason = expected.get(name)
            marks = [] if reason is None else [
                pytest.mark.xfail(reason=reason, raises=ConformanceError, strict=True)]  # fmt: skip
            check = _skipping(functools.partial(function, **options_of(function, params=params,
                                                                       max_examples=max_examples)))  # fmt: skip
            cases.append(pytest.param(obj, check, id=f"{rule!r}-{name}", marks=marks))
    return pytest.mark.parametrize("optimizer, check", cases)


def _skipping(check: Callable[..., None]) -> Callable[..., None]:
    """Let pytest know a check that has nothing to say."""
    import pytest

    def run(optimizer: Any) -> None:
        try:
            check(optimizer)
        except NotApplicable as reason:
            pytest.skip(str(reason))

    return run
