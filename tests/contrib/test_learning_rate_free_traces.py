"""Rules that find their learning rate, and newer relatives of Adam, against the code of their authors."""

from __future__ import annotations

import pytest

from optimkit import rules as core
from optimkit.contrib import rules
from tests.contrib.golden import assert_follows

# What made each of them is in tests/golden/traces/make_learning_rate_free.py.
RULES = {
    "Prodigy": rules.Prodigy(weight_decay=0.01),
    "Prodigy_options": rules.Prodigy(
        0.8, 0.99, beta3=0.9, d_coef=2.0, growth_rate=1.2, d0=1e-4, bias_correction=True, safeguard_warmup=True
    ),
    "DAdaptAdamW": rules.DAdaptAdamW(weight_decay=0.01),
    "DAdaptAdamW_options": rules.DAdaptAdamW(
        0.8, 0.99, d0=1e-4, growth_rate=1.2, bias_correction=True
    ),
    "DoG": rules.DoG(),
    "LDoG": rules.LDoG(reps_rel=1e-4),
    "DoWG": rules.DoWG(),
    "COCOB": rules.COCOB(),
    "MADGRAD": rules.MADGRAD(),
    "MADGRAD_without_momentum": rules.MADGRAD(0.0, eps=1e-3),
    "MoMo": rules.MoMo(weight_decay=0.01),
    "MoMo_options": rules.MoMo(0.8, -1.0, bias_correction=True, adapt_lower_bound=True),
    "MoMoAdam": rules.MoMoAdam(weight_decay=0.01),
    "MoMoAdam_options": rules.MoMoAdam(0.8, 0.99, lower_bound=-1.0, adapt_lower_bound=True),
    "Mechanic": rules.Mechanic(core.Momentum(0.9), s_decay=0.0, m_init=1e-6),
    "ACProp": rules.ACProp(),
    "ADOPT": rules.ADOPT(beta2=0.99),
    "AdEMAMix": rules.AdEMAMix(weight_decay=0.1),
    "AdEMAMix_warmup": rules.AdEMAMix(0.8, 0.99, 0.999, 8.0, warmup=60),
    "SimplifiedAdEMAMix": rules.SimplifiedAdEMAMix(alpha=2.0, weight_decay=0.1),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_follows_its_authors_code(name):
    assert_follows(name, RULES[name])
