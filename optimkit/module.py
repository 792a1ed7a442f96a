"""Modules and transforms, under the name that objax has for their module; see :mod:`optimkit.core`."""

from optimkit.core import ForceArgs as ForceArgs
from optimkit.core import Function as Function
from optimkit.core import Jit as Jit
from optimkit.core import Module as Module
from optimkit.core import ModuleDict as ModuleDict
from optimkit.core import ModuleList as ModuleList
from optimkit.core import Parallel as Parallel
from optimkit.core import Vectorize as Vectorize
