"""Configs: rules, schedules, projections and optimizers as dicts that go through JSON, and back.

::

    config = get_config(rules.Chain(rules.ClipByGlobalNorm(1.0), rules.AdamW()))
    text = json.dumps(config)
    rule = from_config(json.loads(text))        # equal to the first

A config is a dict with the key ``"name"``, which says what it is, and a key for each argument of its constructor, all
of them, also those at their defaults::

    {"name": "Scaled", "inner": {"name": "SGD"}, "factor": {"name": "schedule.Constant", "value": 0.5}}

Rules are called by their classes; schedules, projections and optimizers have ``schedule.``, ``projections.`` and
``optimizer.`` before that. What JSON does not have is a dict with a name, too: a compiled regular expression
(``pattern``), an array with its dtype (``array``), infinities and NaN (``float``), a dtype (``dtype``). Tuples are
lists. Numbers come back to the last bit.

Names are looked up in a table, never imported: a config that someone else wrote can name what is registered and
nothing else. Everything public in optimkit is; :func:`register` adds classes and functions of your own.

A key that is missing takes the default of its argument, so that configs outlive new hyperparameters; a key that is
unknown is an error.
"""

from optimkit.config import builtin as _builtin  # noqa: F401 - it registers what is ours
from optimkit.config.reading import from_config as from_config
from optimkit.config.registry import register as register
from optimkit.config.registry import registered as registered
from optimkit.config.writing import get_config as get_config
