"""Stateful optimizers: rules bound to variables, averages of weights, and objax's schedulers."""

from optimkit.ema import ExponentialMovingAverage as ExponentialMovingAverage
from optimkit.ema import ExponentialMovingAverageModule as ExponentialMovingAverageModule
from optimkit.optimizer import scheduler as scheduler
from optimkit.optimizer.base import Optimizer as Optimizer
from optimkit.optimizer.named import LARS as LARS
from optimkit.optimizer.named import SGD as SGD
from optimkit.optimizer.named import Adam as Adam
from optimkit.optimizer.named import AdamW as AdamW
from optimkit.optimizer.named import Momentum as Momentum
