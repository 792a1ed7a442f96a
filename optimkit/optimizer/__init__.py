"""Stateful optimizers: rules bound to variables, averages of weights, and objax's schedulers."""

from optimkit.config.registry import register_public
from optimkit.ema import ExponentialMovingAverage as ExponentialMovingAverage
from optimkit.ema import ExponentialMovingAverageModule as ExponentialMovingAverageModule
from optimkit.optimizer import scheduler as scheduler
from optimkit.optimizer.adagrad import SM3 as SM3
from optimkit.optimizer.adagrad import AdaDelta as AdaDelta
from optimkit.optimizer.adagrad import AdaGrad as AdaGrad
from optimkit.optimizer.adagrad import RMSProp as RMSProp
from optimkit.optimizer.adam_variants import AdaBelief as AdaBelief
from optimkit.optimizer.adam_variants import AdamAtan2 as AdamAtan2
from optimkit.optimizer.adam_variants import AdaMax as AdaMax
from optimkit.optimizer.adam_variants import AdaMaxW as AdaMaxW
from optimkit.optimizer.adam_variants import Adan as Adan
from optimkit.optimizer.adam_variants import AMSGrad as AMSGrad
from optimkit.optimizer.adam_variants import LaProp as LaProp
from optimkit.optimizer.adam_variants import NAdam as NAdam
from optimkit.optimizer.adam_variants import NAdamW as NAdamW
from optimkit.optimizer.adam_variants import NovoGrad as NovoGrad
from optimkit.optimizer.adam_variants import RAdam as RAdam
from optimkit.optimizer.adam_variants import StableAdamW as StableAdamW
from optimkit.optimizer.adam_variants import Yogi as Yogi
from optimkit.optimizer.base import Optimizer as Optimizer
from optimkit.optimizer.factored import CAME as CAME
from optimkit.optimizer.factored import Adafactor as Adafactor
from optimkit.optimizer.groups import Group as Group
from optimkit.optimizer.layerwise import LAMB as LAMB
from optimkit.optimizer.layerwise import Fromage as Fromage
from optimkit.optimizer.lbfgs import LBFGS as LBFGS
from optimkit.optimizer.named import LARS as LARS
from optimkit.optimizer.named import SGD as SGD
from optimkit.optimizer.named import Adam as Adam
from optimkit.optimizer.named import AdamW as AdamW
from optimkit.optimizer.named import Momentum as Momentum
from optimkit.optimizer.optimistic import NoisySGD as NoisySGD
from optimkit.optimizer.optimistic import OptimisticAdam as OptimisticAdam
from optimkit.optimizer.optimistic import OptimisticGradient as OptimisticGradient
from optimkit.optimizer.optimistic import PolyakSGD as PolyakSGD
from optimkit.optimizer.recipes import crossed as crossed
from optimkit.optimizer.recipes import layerwise_lr_decay as layerwise_lr_decay
from optimkit.optimizer.recipes import no_decay as no_decay
from optimkit.optimizer.recipes import train_only as train_only
from optimkit.optimizer.sign import Lion as Lion
from optimkit.optimizer.sign import RProp as RProp
from optimkit.optimizer.sign import SignSGD as SignSGD
from optimkit.optimizer.sign import Signum as Signum

register_public(globals())
register_public({name: getattr(scheduler, name) for name in scheduler.__all__}, but=(scheduler.Scheduler,))
