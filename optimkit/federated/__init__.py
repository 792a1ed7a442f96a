"""Federated optimization: rules for clients and servers, and pipelines of plug-ins.

**Between machines**, :class:`PluginOptimizer` is put together from plug-ins by name; its config, state and messages go
through JSON and bytes. :class:`OptiModule`, :class:`Regularizer` and :class:`Scheduler` are the bases of plug-ins, and
:class:`AuxVar` that of messages.

**On the functional face**, for programs in which clients are rows of arrays under ``vmap``. Rules here go where any
rule goes; those that exchange something or remember a round have pure methods beside ``init`` and ``update``, on states
that they made, and all of it works under ``vmap``, ``scan`` and ``jit``.

*FedProx*: :class:`Proximal`, whose ``init`` (or ``start_round``) begins a round::

    client = pure(Proximal(rate=0.1), lr=0.1)         # or pure(Chain(Proximal(0.1), Momentum()), lr)
    state = client.init(server_params)                # each round; p₀ is where its first step is taken
    state, params = client.apply(grads, state, params)

*Scaffold*: :class:`ScaffoldClient`, whose states outlive rounds, and :class:`ScaffoldServer`::

    rule, client = ScaffoldClient(), pure(ScaffoldClient(), lr=0.1)
    states = jax.vmap(client.init, axis_size=20, in_axes=None)(server_params)      # once, for 20 clients

    # each round, for one client; under vmap over clients, with c the same for all (in_axes None)
    state = rule.receive(state, c)                    # c, a tree as the parameters, zeros at first
    state, params = client.apply(grads, state, params)                             # some steps
    delta, state = rule.collect(state)                # Δᵢ, for the server

    server = ScaffoldServer()                         # its state: server.init(params)
    server_state = server.receive(server_state, sum_of_deltas)
    c = server.shared(server_state, clients=20)       # all clients there are, not those of the round

A state of a chain is a dict by the names of its rules: ``rule.receive(state["ScaffoldClient"], c)``;
``start_round(rule, state)`` goes into chains by itself. What ``pure`` wraps for a scheduled learning rate is
``state["rule"]``.
"""

from optimkit.config.registry import register_public
from optimkit.federated.auxiliary import AuxVar as AuxVar
from optimkit.federated.model import LossModel as LossModel
from optimkit.federated.modules import AdaGradModule as AdaGradModule
from optimkit.federated.modules import AdamModule as AdamModule
from optimkit.federated.modules import EWMAModule as EWMAModule
from optimkit.federated.modules import FedProxRegularizer as FedProxRegularizer
from optimkit.federated.modules import GaussianNoiseModule as GaussianNoiseModule
from optimkit.federated.modules import L2Clipping as L2Clipping
from optimkit.federated.modules import L2GlobalClipping as L2GlobalClipping
from optimkit.federated.modules import LaplacianNoiseModule as LaplacianNoiseModule
from optimkit.federated.modules import LassoRegularizer as LassoRegularizer
from optimkit.federated.modules import MomentumModule as MomentumModule
from optimkit.federated.modules import RidgeRegularizer as RidgeRegularizer
from optimkit.federated.modules import RMSPropModule as RMSPropModule
from optimkit.federated.modules import YogiModule as YogiModule
from optimkit.federated.modules import YogiMomentumModule as YogiMomentumModule
from optimkit.federated.noise import Noise as Noise
from optimkit.federated.optimizer import PluginOptimizer as PluginOptimizer
from optimkit.federated.plugins import Memory as Memory
from optimkit.federated.plugins import OptiModule as OptiModule
from optimkit.federated.plugins import Regularizer as Regularizer
from optimkit.federated.plugins import RuleModule as RuleModule
from optimkit.federated.plugins import list_optim_modules as list_optim_modules
from optimkit.federated.plugins import list_optim_regularizers as list_optim_regularizers
from optimkit.federated.rules import AMSYogi as AMSYogi
from optimkit.federated.rules import ClipByNorm as ClipByNorm
from optimkit.federated.rules import L1Penalty as L1Penalty
from optimkit.federated.rules import Proximal as Proximal
from optimkit.federated.rules import YogiMean as YogiMean
from optimkit.federated.rules import start_round as start_round
from optimkit.federated.scaffold import ScaffoldClient as ScaffoldClient
from optimkit.federated.scaffold import ScaffoldServer as ScaffoldServer
from optimkit.federated.scaffold_plugins import ScaffoldAuxVar as ScaffoldAuxVar
from optimkit.federated.scaffold_plugins import ScaffoldClientModule as ScaffoldClientModule
from optimkit.federated.scaffold_plugins import ScaffoldServerModule as ScaffoldServerModule
from optimkit.federated.schedulers import CosineAnnealing as CosineAnnealing
from optimkit.federated.schedulers import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from optimkit.federated.schedulers import CyclicExpRange as CyclicExpRange
from optimkit.federated.schedulers import CyclicTriangular as CyclicTriangular
from optimkit.federated.schedulers import ExponentialDecay as ExponentialDecay
from optimkit.federated.schedulers import InverseScaling as InverseScaling
from optimkit.federated.schedulers import LinearDecay as LinearDecay
from optimkit.federated.schedulers import PiecewiseDecay as PiecewiseDecay
from optimkit.federated.schedulers import PolynomialDecay as PolynomialDecay
from optimkit.federated.schedulers import Scheduled as Scheduled
from optimkit.federated.schedulers import Scheduler as Scheduler
from optimkit.federated.schedulers import Warmup as Warmup
from optimkit.federated.schedulers import WarmupRounds as WarmupRounds
from optimkit.federated.schedulers import list_rate_schedulers as list_rate_schedulers
from optimkit.federated.states import MissingKeyError as MissingKeyError

register_public(globals())
