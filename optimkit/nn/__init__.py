"""Layers that training scripts need, with objax's names; images are ``[N, C, H, W]``."""

from optimkit.nn import init as init
from optimkit.nn.average import ExponentialMovingAverage as ExponentialMovingAverage
from optimkit.nn.average import MovingAverage as MovingAverage
from optimkit.nn.batchnorm import BatchNorm as BatchNorm
from optimkit.nn.batchnorm import BatchNorm0D as BatchNorm0D
from optimkit.nn.batchnorm import BatchNorm1D as BatchNorm1D
from optimkit.nn.batchnorm import BatchNorm2D as BatchNorm2D
from optimkit.nn.batchnorm import SyncedBatchNorm as SyncedBatchNorm
from optimkit.nn.batchnorm import SyncedBatchNorm0D as SyncedBatchNorm0D
from optimkit.nn.batchnorm import SyncedBatchNorm1D as SyncedBatchNorm1D
from optimkit.nn.batchnorm import SyncedBatchNorm2D as SyncedBatchNorm2D
from optimkit.nn.dropout import Dropout as Dropout
from optimkit.nn.linear import Conv2D as Conv2D
from optimkit.nn.linear import Embedding as Embedding
from optimkit.nn.linear import Linear as Linear
from optimkit.nn.normalization import GroupNorm as GroupNorm
from optimkit.nn.normalization import GroupNorm0D as GroupNorm0D
from optimkit.nn.normalization import GroupNorm1D as GroupNorm1D
from optimkit.nn.normalization import GroupNorm2D as GroupNorm2D
from optimkit.nn.normalization import LayerNorm as LayerNorm
from optimkit.nn.sequential import Sequential as Sequential
