"""Projections: the nearest point of a set, as a value that is a function of an array.

``Optimizer(..., constraints={"weights": projections.Simplex()})`` projects the parameters that match after each step,
before they are stored: projected gradient descent. A projection is of the Euclidean norm; it leaves a point of its set
where it is, and NaN comes through.

They are computed in float32 (float64 for float64) and rounded once. Rounding is part of it: what is stored in half
precision lies in the set, too, wherever the numbers of that precision allow it. Where a set is one of equality, a sum
of 1 for instance, it holds as nearly as they can.

Write another as a subclass that defines ``project``, or as a plain function from array to array.
"""

from optimkit.projections.balls import L1Ball as L1Ball
from optimkit.projections.balls import L2Ball as L2Ball
from optimkit.projections.balls import Simplex as Simplex
from optimkit.projections.base import Projection as Projection
from optimkit.projections.boxes import Box as Box
from optimkit.projections.boxes import LInfBall as LInfBall
from optimkit.projections.boxes import NonNegative as NonNegative
from optimkit.projections.planes import HalfSpace as HalfSpace
from optimkit.projections.planes import Hyperplane as Hyperplane
