"""Federated optimization: rules for clients and servers, and pipelines of plug-ins.

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

from optimkit.federated.noise import Noise as Noise
from optimkit.federated.rules import AMSYogi as AMSYogi
from optimkit.federated.rules import ClipByNorm as ClipByNorm
from optimkit.federated.rules import L1Penalty as L1Penalty
from optimkit.federated.rules import Proximal as Proximal
from optimkit.federated.rules import YogiMean as YogiMean
from optimkit.federated.rules import start_round as start_round
from optimkit.federated.scaffold import ScaffoldClient as ScaffoldClient
from optimkit.federated.scaffold import ScaffoldServer as ScaffoldServer
