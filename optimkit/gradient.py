"""Derivatives, under the name that objax has for their module; see :mod:`optimkit.core.gradient`."""

from optimkit.core.gradient import Grad as Grad
from optimkit.core.gradient import GradValues as GradValues
from optimkit.core.gradient import Hessian as Hessian
from optimkit.core.gradient import Jacobian as Jacobian
