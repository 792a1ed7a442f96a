"""Schedules: values that change with the step, such as a learning rate that warms up and decays.

A schedule is an immutable value that is called with a step number: ``schedule(step) -> value``. One schedule serves
a Python loop and a traced step alike:

- a Python or NumPy number gives a Python float, computed in float64; a NumPy array, as for a plot, a float64 array;
- a JAX array or tracer gives a float32 array of its shape, and a new step never compiles anew.

Steps count from 0: the first step of an optimizer sees ``schedule(0)``. A negative step counts as 0, and a step above
2**31 - 1 as 2**31 - 1, where optimkit's counters stop. No step gives NaN, and the ends of a schedule are exact.

- one shape: :class:`Constant`, :class:`Linear`, :class:`Polynomial`, :class:`Cosine`, :class:`Exponential`
- from a list of values: :class:`Piecewise` (constant between boundaries), :class:`Interpolated`
- a whole run: :class:`WarmupCosine`, :class:`WarmupStableDecay`, :class:`InverseSqrt`, :class:`OneCycle`, :class:`SGDR`
- put together: :class:`Warmup` before any schedule, :class:`Join`

To write a schedule, subclass :class:`Schedule`.
"""

from optimkit.schedule.base import COMPULSORY as COMPULSORY
from optimkit.schedule.base import COUNT as COUNT
from optimkit.schedule.base import COUNT_OR_ZERO as COUNT_OR_ZERO
from optimkit.schedule.base import LAST_STEP as LAST_STEP
from optimkit.schedule.base import RATE as RATE
from optimkit.schedule.base import REAL as REAL
from optimkit.schedule.base import Schedule as Schedule
from optimkit.schedule.base import check_field as check_field
from optimkit.schedule.base import documented as documented
from optimkit.schedule.compose import Join as Join
from optimkit.schedule.compose import Warmup as Warmup
from optimkit.schedule.compose import join as join
from optimkit.schedule.cycles import SGDR as SGDR
from optimkit.schedule.cycles import OneCycle as OneCycle
from optimkit.schedule.piecewise import Interpolated as Interpolated
from optimkit.schedule.piecewise import Piecewise as Piecewise
from optimkit.schedule.shapes import Constant as Constant
from optimkit.schedule.shapes import Cosine as Cosine
from optimkit.schedule.shapes import Exponential as Exponential
from optimkit.schedule.shapes import Linear as Linear
from optimkit.schedule.shapes import Polynomial as Polynomial
from optimkit.schedule.warmups import InverseSqrt as InverseSqrt
from optimkit.schedule.warmups import WarmupCosine as WarmupCosine
from optimkit.schedule.warmups import WarmupStableDecay as WarmupStableDecay

__all__ = [
    "SGDR",
    "Constant",
    "Cosine",
    "Exponential",
    "Interpolated",
    "InverseSqrt",
    "Join",
    "Linear",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "Warmup",
    "WarmupCosine",
    "WarmupStableDecay",
    "join",
]
