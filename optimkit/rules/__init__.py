"""Rules: optimization algorithms as immutable values. The stateful classes of the same names are in ``optimizer``.

In order of complexity: :class:`SGD`, :class:`Momentum`, :class:`Adam`, :class:`AdamW`, :class:`LARS`; stages to chain
them with: :class:`WeightDecay`, :class:`ClipByGlobalNorm`, :class:`TrustRatio`; and what composes them:
:class:`Chain`, :class:`Partition`.
"""

from optimkit.hyper import hyper as hyper
from optimkit.rules.adam import Adam as Adam
from optimkit.rules.adam import AdamW as AdamW
from optimkit.rules.base import LeafRule as LeafRule
from optimkit.rules.base import Rule as Rule
from optimkit.rules.base import Step as Step
from optimkit.rules.base import Wrapper as Wrapper
from optimkit.rules.base import displace as displace
from optimkit.rules.compose import Chain as Chain
from optimkit.rules.compose import Composed as Composed
from optimkit.rules.compose import Frozen as Frozen
from optimkit.rules.compose import Partition as Partition
from optimkit.rules.layerwise import LARS as LARS
from optimkit.rules.sgd import SGD as SGD
from optimkit.rules.sgd import Momentum as Momentum
from optimkit.rules.stages import ClipByGlobalNorm as ClipByGlobalNorm
from optimkit.rules.stages import TrustRatio as TrustRatio
from optimkit.rules.stages import WeightDecay as WeightDecay
