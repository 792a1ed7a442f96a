"""Variables, under the name that objax has for their module; see :mod:`optimkit.core.variable`."""

from optimkit.core.collection import VarCollection as VarCollection
from optimkit.core.variable import BaseState as BaseState
from optimkit.core.variable import BaseVar as BaseVar
from optimkit.core.variable import RandomState as RandomState
from optimkit.core.variable import StateVar as StateVar
from optimkit.core.variable import TrainRef as TrainRef
from optimkit.core.variable import TrainVar as TrainVar
