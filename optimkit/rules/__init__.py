"""Rules: optimization algorithms as immutable values. The stateful classes of the same names are in ``optimizer``.

In order of complexity: :class:`SGD`, :class:`Momentum`, :class:`Adam`, :class:`AdamW`, :class:`LARS`; stages to chain
them with: :class:`WeightDecay`, :class:`ClipByGlobalNorm`, :class:`TrustRatio`, those of the modules ``clipping`` and
``gradients``; what composes them: :class:`Chain`, :class:`Partition`; and wrappers, those of the modules ``wrappers``,
``gated``, ``averaged`` and ``weight_norm``.
"""

from optimkit.hyper import hyper as hyper
from optimkit.rules.adagrad import SM3 as SM3
from optimkit.rules.adagrad import AdaDelta as AdaDelta
from optimkit.rules.adagrad import AdaGrad as AdaGrad
from optimkit.rules.adagrad import RMSProp as RMSProp
from optimkit.rules.adam import Adam as Adam
from optimkit.rules.adam import AdamW as AdamW
from optimkit.rules.adam_moments import AdaBelief as AdaBelief
from optimkit.rules.adam_moments import Adan as Adan
from optimkit.rules.adam_moments import NovoGrad as NovoGrad
from optimkit.rules.adam_moments import Yogi as Yogi
from optimkit.rules.adam_quotients import AdamAtan2 as AdamAtan2
from optimkit.rules.adam_quotients import LaProp as LaProp
from optimkit.rules.adam_quotients import StableAdamW as StableAdamW
from optimkit.rules.adam_variants import AdaMax as AdaMax
from optimkit.rules.adam_variants import AdaMaxW as AdaMaxW
from optimkit.rules.adam_variants import AMSGrad as AMSGrad
from optimkit.rules.adam_variants import NAdam as NAdam
from optimkit.rules.adam_variants import NAdamW as NAdamW
from optimkit.rules.adam_variants import RAdam as RAdam
from optimkit.rules.averaged import Averaged as Averaged
from optimkit.rules.averaged import Lookahead as Lookahead
from optimkit.rules.averaged import PolynomialAveraged as PolynomialAveraged
from optimkit.rules.base import LeafRule as LeafRule
from optimkit.rules.base import Rule as Rule
from optimkit.rules.base import Step as Step
from optimkit.rules.base import Wrapper as Wrapper
from optimkit.rules.base import displace as displace
from optimkit.rules.clipping import AdaptiveClip as AdaptiveClip
from optimkit.rules.clipping import ClipByBlockRMS as ClipByBlockRMS
from optimkit.rules.clipping import ClipByGlobalNorm as ClipByGlobalNorm
from optimkit.rules.clipping import ClipByValue as ClipByValue
from optimkit.rules.compose import Chain as Chain
from optimkit.rules.compose import Composed as Composed
from optimkit.rules.compose import Frozen as Frozen
from optimkit.rules.compose import Partition as Partition
from optimkit.rules.factored import CAME as CAME
from optimkit.rules.factored import Adafactor as Adafactor
from optimkit.rules.gated import Accumulated as Accumulated
from optimkit.rules.gated import SkipNonFinite as SkipNonFinite
from optimkit.rules.gradients import AddNoise as AddNoise
from optimkit.rules.gradients import Centralize as Centralize
from optimkit.rules.gradients import EmaOfGradients as EmaOfGradients
from optimkit.rules.gradients import GrokFast as GrokFast
from optimkit.rules.gradients import ZeroNaNs as ZeroNaNs
from optimkit.rules.layerwise import LAMB as LAMB
from optimkit.rules.layerwise import LARS as LARS
from optimkit.rules.layerwise import Fromage as Fromage
from optimkit.rules.lbfgs import LBFGS as LBFGS
from optimkit.rules.linesearch import Backtracking as Backtracking
from optimkit.rules.linesearch import LineSearch as LineSearch
from optimkit.rules.linesearch import Zoom as Zoom
from optimkit.rules.optimistic import NoisySGD as NoisySGD
from optimkit.rules.optimistic import OptimisticAdam as OptimisticAdam
from optimkit.rules.optimistic import OptimisticGradient as OptimisticGradient
from optimkit.rules.optimistic import PolyakSGD as PolyakSGD
from optimkit.rules.sgd import SGD as SGD
from optimkit.rules.sgd import Momentum as Momentum
from optimkit.rules.sign import Lion as Lion
from optimkit.rules.sign import RProp as RProp
from optimkit.rules.sign import SignSGD as SignSGD
from optimkit.rules.sign import Signum as Signum
from optimkit.rules.stages import IndependentWeightDecay as IndependentWeightDecay
from optimkit.rules.stages import TrustRatio as TrustRatio
from optimkit.rules.stages import WeightDecay as WeightDecay
from optimkit.rules.weight_norm import WeightNorm as WeightNorm
from optimkit.rules.wrappers import Cautious as Cautious
from optimkit.rules.wrappers import Masked as Masked
from optimkit.rules.wrappers import Scaled as Scaled
