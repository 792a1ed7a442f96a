"""Random numbers whose generator is a variable; see :mod:`optimkit.core.random`."""

from optimkit.core.random import DEFAULT_GENERATOR as DEFAULT_GENERATOR
from optimkit.core.random import Generator as Generator
from optimkit.core.random import bernoulli as bernoulli
from optimkit.core.random import normal as normal
from optimkit.core.random import randint as randint
from optimkit.core.random import truncated_normal as truncated_normal
from optimkit.core.random import uniform as uniform
