"""Functions that training scripts need: losses, activations, pooling, and reductions over devices.

``functional.loss`` holds the losses, ``functional.divergence`` the divergences, ``functional.parallel`` the reductions
over devices; the rest is here. All take optimkit variables as well as arrays.
"""

from optimkit.functional import divergence as divergence
from optimkit.functional import loss as loss
from optimkit.functional import parallel as parallel
from optimkit.functional.activation import celu as celu
from optimkit.functional.activation import elu as elu
from optimkit.functional.activation import gelu as gelu
from optimkit.functional.activation import leaky_relu as leaky_relu
from optimkit.functional.activation import log_sigmoid as log_sigmoid
from optimkit.functional.activation import log_softmax as log_softmax
from optimkit.functional.activation import logsumexp as logsumexp
from optimkit.functional.activation import relu as relu
from optimkit.functional.activation import selu as selu
from optimkit.functional.activation import sigmoid as sigmoid
from optimkit.functional.activation import silu as silu
from optimkit.functional.activation import softmax as softmax
from optimkit.functional.activation import softplus as softplus
from optimkit.functional.activation import swish as swish
from optimkit.functional.activation import tanh as tanh
from optimkit.functional.ops import dynamic_slice as dynamic_slice
from optimkit.functional.ops import flatten as flatten
from optimkit.functional.ops import one_hot as one_hot
from optimkit.functional.ops import pad as pad
from optimkit.functional.ops import rsqrt as rsqrt
from optimkit.functional.ops import scan as scan
from optimkit.functional.ops import stop_gradient as stop_gradient
from optimkit.functional.ops import top_k as top_k
from optimkit.functional.pooling import average_pool_2d as average_pool_2d
from optimkit.functional.pooling import max_pool_2d as max_pool_2d
