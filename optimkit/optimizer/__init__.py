"""Stateful optimizers: rules bound to variables, averages of weights, and objax's schedulers."""

from optimkit.ema import ExponentialMovingAverage as ExponentialMovingAverage
from optimkit.ema import ExponentialMovingAverageModule as ExponentialMovingAverageModule
from optimkit.optimizer import scheduler as scheduler
from optimkit.optimizer.adagrad import SM3 as SM3
from optimkit.optimizer.adagrad import AdaDelta as AdaDelta
from optimkit.optimizer.adagrad import AdaGrad as AdaGrad
from optimkit.optimizer.adagrad import RMSProp as RMSProp
from optimkit.optimizer.base import Optimizer as Optimizer
from optimkit.optimizer.factored import CAME as CAME
from optimkit.optimizer.factored import Adafactor as Adafactor
from optimkit.optimizer.layerwise import LAMB as LAMB
from optimkit.optimizer.layerwise import Fromage as Fromage
from optimkit.optimizer.named import LARS as LARS
from optimkit.optimizer.named import SGD as SGD
from optimkit.optimizer.named import Adam as Adam
from optimkit.optimizer.named import AdamW as AdamW
from optimkit.optimizer.named import Momentum as Momentum
from optimkit.optimizer.optimistic import NoisySGD as NoisySGD
from optimkit.optimizer.optimistic import OptimisticAdam as OptimisticAdam
from optimkit.optimizer.optimistic import OptimisticGradient as OptimisticGradient
from optimkit.optimizer.optimistic import PolyakSGD as PolyakSGD
from optimkit.optimizer.sign import Lion as Lion
from optimkit.optimizer.sign import RProp as RProp
from optimkit.optimizer.sign import SignSGD as SignSGD
from optimkit.optimizer.sign import Signum as Signum
