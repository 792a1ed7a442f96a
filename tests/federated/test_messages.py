"""Auxiliary variables: records, their sums, JSON and bytes; and Scaffold from end to end."""

from __future__ import annotations

import contextlib
import functools
import json
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import pure
from optimkit.errors import CompositionError, ConfigError, OptimkitError, StructureError
from optimkit.federated import (
    AuxVar,
    PluginOptimizer,
    ScaffoldAuxVar,
    ScaffoldClient,
    ScaffoldClientModule,
    ScaffoldServer,
    wire,
)
from tests.oracles.federated import oracle_scaffold

LR, CLIENTS, ROUNDS, LOCAL = 0.1, 10, 2, 3


def deltas(count=3, dtype=np.float64):
    """Return records of some clients."""
    rng = np.random.default_rng(0)
    return [ScaffoldAuxVar(delta={"w": rng.normal(size=(2, 3)).astype(dtype), "b": np.array(0.1, dtype)},
                           clients={f"client-{i}"}) for i in range(count)]  # fmt: skip


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_a_record_goes_through_json_and_bytes_to_the_last_bit(dtype):
    odd = np.array([0.1, -0.0, np.nan, np.inf, 1e-7], dtype)
    for record in (ScaffoldAuxVar(delta={"w": odd, "none": np.zeros((0, 2), dtype)}, clients={"a", "b"}),
                   ScaffoldAuxVar(state=0.0), ScaffoldAuxVar(state={"w": odd})):  # fmt: skip
        text = json.dumps(record.to_dict(), allow_nan=False)
        for again in (AuxVar.from_dict(json.loads(text)), AuxVar.from_bytes(record.to_bytes())):
            assert type(again) is ScaffoldAuxVar
            assert again == record
            assert again.clients == record.clients
            for name, x in (record.vector() or {}).items():
                assert again.vector()[name].dtype == dtype
                assert again.vector()[name].tobytes() == x.tobytes()


def test_bytes_take_the_room_of_the_elements_and_json_a_third_more():
    record = ScaffoldAuxVar(delta={"w": np.random.default_rng(0).normal(size=10_000)})
    assert len(record.to_bytes()) < 80_000 + 200
    assert len(json.dumps(record.to_dict())) < 80_000 * 4 / 3 + 200


def test_bytes_that_are_cut_or_changed_are_refused_and_nothing_in_them_is_run():
    data = deltas(1)[0].to_bytes()
    for end in range(len(data)):
        with pytest.raises(StructureError):
            AuxVar.from_bytes(data[:end])
    with pytest.raises(StructureError):
        AuxVar.from_bytes(data + b"x")
    rng = np.random.default_rng(1)
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(OptimkitError):  # and nothing else
            AuxVar.from_bytes(bytes(changed))
    with pytest.raises(StructureError):
        AuxVar.from_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")


def test_a_dict_that_is_no_record_is_refused():
    good = deltas(1)[0].to_dict()
    for bad, error in (({**good, "name": "scaffolt"}, KeyError), ({**good, "more": 1}, ConfigError), (3, ConfigError),
                       ({k: x for k, x in good.items() if k != "delta"}, ConfigError),
                       ({**good, "delta": {"w": {"__array__": "float32", "shape": [2], "base64": "AAAA"}}},
                        StructureError)):  # fmt: skip
        with pytest.raises(error):
            AuxVar.from_dict(bad)


def test_records_add_up_in_any_order():
    records = deltas(4)
    total = sum(records)
    assert total.clients == {f"client-{i}" for i in range(4)}
    np.testing.assert_array_equal(total.delta["w"], functools.reduce(operator.add, [r.delta["w"] for r in records]))
    pairwise = (records[3] + records[1]) + (records[0] + records[2])
    np.testing.assert_allclose(pairwise.delta["w"], total.delta["w"], rtol=1e-15, atol=1e-15)
    assert pairwise.clients == total.clients
    assert records[0] == deltas(1)[0], "adding changes no part"


def test_records_that_do_not_fit_do_not_add_up():
    one = deltas(1)[0]
    for other, error in ((ScaffoldAuxVar(delta={"w": np.zeros(2)}), StructureError),
                         (ScaffoldAuxVar(delta={**one.delta, "w": np.zeros((3, 2))}), StructureError),
                         (deltas(1, np.float32)[0], StructureError), (ScaffoldAuxVar(state=0.0), StructureError),
                         ({"w": np.zeros(2)}, TypeError)):  # fmt: skip
        with pytest.raises(error):
            one + other
    with pytest.raises(ValueError, match="no part of a sum"):
        ScaffoldAuxVar(state=0.0) + ScaffoldAuxVar(state=0.0)


def test_a_record_of_scaffold_has_exactly_one_of_state_and_delta():
    for given in ({}, {"state": 0.0, "delta": 0.0}):
        with pytest.raises(ValueError, match="exactly one"):
            ScaffoldAuxVar(**given)
    for given in ({"state": "x"}, {"delta": 0.0, "clients": "abc"}, {"delta": 0.0, "clients": {1}}):
        with pytest.raises(TypeError):
            ScaffoldAuxVar(**given)


def test_random_keys_go_over_the_wire():
    key = jax.random.key(3)
    again = wire.from_bytes(wire.to_bytes({"key": key}))["key"]
    assert again.dtype == key.dtype
    assert jax.random.key_data(again).tolist() == jax.random.key_data(key).tolist()


# --- Scaffold ---------------------------------------------------------------------------------------------------------

TARGETS = np.random.default_rng(5).normal(size=(CLIENTS, 4))


def gradient(i, step, y):
    """Return a client's gradient, another one at each step."""
    return (1.0 + 0.1 * i) * (y - TARGETS[i]) + 0.05 * (step - 1)


def oracle(rounds):
    """Return what the paper's algorithm ends at, for the clients of each round."""
    steps = [functools.partial(gradient, i, s) for i in range(CLIENTS) for s in range(LOCAL)]
    of = lambda i: steps[i * LOCAL : (i + 1) * LOCAL]  # noqa: E731
    return oracle_scaffold([[of(i) if i in clients else None for i in range(CLIENTS)] for clients in rounds],
                           np.zeros(4), LR)  # fmt: skip


def by_plugins(rounds):
    """Run Scaffold with optimizers that exchange bytes, and are saved and made anew in the middle."""
    server = PluginOptimizer(1.0, modules=["scaffold-server"])
    clients = [PluginOptimizer(LR, modules=["scaffold-client"]) for _ in range(CLIENTS)]
    x, sent = {"w": np.zeros(4)}, []
    for who in rounds:
        message = {k: v.to_bytes() for k, v in server.collect_aux_var().items()}
        total, moves = 0, []
        for i in who:
            opt, y = clients[i], {"w": x["w"].copy()}
            opt.process_aux_var({k: AuxVar.from_bytes(v) for k, v in message.items()})
            opt.start_round()
            for step in range(LOCAL):
                opt.apply_gradients(y, {"w": gradient(i, step, y["w"])})
            total = total + AuxVar.from_dict(json.loads(json.dumps(opt.collect_aux_var()["scaffold"].to_dict())))
            moves.append(x["w"] - y["w"])
            clients[i] = PluginOptimizer.from_config(opt.get_config())
            clients[i].set_state(json.loads(json.dumps(opt.get_state())))
        server.process_aux_var({"scaffold": total})
        server.apply_gradients(x, {"w": np.mean(moves, 0)})
        sent.append(server.collect_aux_var()["scaffold"].state["w"])
    return x["w"], sent


@pytest.mark.parametrize("rounds", [
    pytest.param([range(CLIENTS)] * 3, id="all", marks=pytest.mark.slow),
    pytest.param([[0, 3], [3, 4, 5], range(CLIENTS), [1, 0]], id="some"),
])  # fmt: skip
def test_scaffold_by_plug_ins_is_the_papers_algorithm(rounds):
    got, sent = by_plugins(rounds)
    wanted, history = oracle(rounds)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(sent, history, rtol=1e-12, atol=1e-13)


def test_scaffold_by_rules_under_vmap_is_the_papers_algorithm():
    client, server = ScaffoldClient(), ScaffoldServer()
    init, apply = pure(client, lr=LR)
    x = {"w": jnp.zeros(4)}
    states, state = jax.vmap(init, in_axes=None, axis_size=CLIENTS)(x), server.init(x)
    scale, targets = 1.0 + 0.1 * jnp.arange(CLIENTS), jnp.asarray(TARGETS)

    @jax.jit
    def one_round(x, states, state):
        c = server.shared(state, CLIENTS)

        def one(memory, factor, target):
            memory, y = client.receive(memory, c), x
            for step in range(LOCAL):
                memory, y = apply({"w": factor * (y["w"] - target) + 0.05 * (step - 1)}, memory, y)
            delta, memory = client.collect(memory)
            return memory, y, delta

        states, ys, changes = jax.vmap(one)(states, scale, targets)
        add = lambda tree: jax.tree.map(lambda d: d.sum(0), tree)  # noqa: E731
        state = server.receive(state, add(changes))
        moved = pure(server, 1.0).apply(jax.tree.map(lambda a, b: a - b.mean(0), x, ys), state, x)
        return moved[1], states, moved[0]

    for _ in range(ROUNDS):
        x, states, state = one_round(x, states, state)
    wanted, history = oracle([range(CLIENTS)] * ROUNDS)
    np.testing.assert_allclose(x["w"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(server.shared(state, CLIENTS)["w"], history[-1], rtol=1e-5, atol=1e-6)


def test_rules_of_scaffold_take_parameters_of_any_names():
    """Also those of the slots."""
    names = {"own": jnp.ones(1), "correction": {"total": jnp.ones(1), "t": jnp.ones(1)}, "total": [jnp.ones(1)]}
    rule = ScaffoldClient()
    state = rule.receive(rule.init(names), jax.tree.map(lambda x: 2 * x, names))
    state, _ = pure(rule, 1.0).apply(names, state, names)
    delta, state = rule.collect(state)
    assert jax.tree.map(float, jax.tree.map(lambda d: d[0], delta)) == jax.tree.map(lambda d: 1.0, delta)
    with pytest.raises(StructureError, match="structure"):
        rule.receive(state, {"own": jnp.ones(1)})
    with pytest.raises(StructureError, match="'own'"):
        rule.receive(state, {**names, "own": jnp.ones(2)})


def stepped():
    """Return a client that has taken a step."""
    opt = PluginOptimizer(LR, modules=["scaffold-client"])
    opt.apply_gradients({"w": np.zeros(2)}, {"w": np.array([1.0, 2.0])})
    return opt


def test_collecting_without_a_step_warns_and_sends_nothing():
    opt = PluginOptimizer(LR, modules=["scaffold-client"])
    with pytest.warns(RuntimeWarning, match="no step"):
        assert opt.collect_aux_var() == {}
    opt = stepped()
    opt.process_aux_var({"scaffold": ScaffoldAuxVar(state=0.0)})
    with pytest.warns(RuntimeWarning, match="no step"):
        assert opt.collect_aux_var() == {}


def test_collecting_commits_so_that_a_second_time_sends_zero():
    opt = stepped()
    assert opt.collect_aux_var()["scaffold"].delta["w"].tolist() == [1.0, 2.0]
    assert opt.collect_aux_var()["scaffold"].delta["w"].tolist() == [0.0, 0.0]


def test_messages_that_do_not_fit_are_refused_and_change_nothing():
    client, server = stepped(), PluginOptimizer(1.0, modules=["scaffold-server"])
    for opt, record, error in (
        (client, deltas(1)[0], KeyError),
        (server, ScaffoldAuxVar(state=0.0), KeyError),
        (client, ScaffoldAuxVar(state={"w": np.zeros(3)}), StructureError),
        (client, ScaffoldAuxVar(state={"v": np.zeros(2)}), StructureError),
        (client, {"state": 0.0}, TypeError),
        (server, None, TypeError),
        (server, ScaffoldAuxVar(state={"w": np.zeros(2)}), KeyError),
    ):
        before = opt.get_state()
        with pytest.raises(error):
            opt.process_aux_var({"scaffold": record})
        assert opt.get_state() == before
    with pytest.raises(KeyError, match="'scaffolt'"):
        client.process_aux_var({"scaffold": ScaffoldAuxVar(state=0.0), "scaffolt": ScaffoldAuxVar(state=0.0)})
    with pytest.raises(KeyError, match="'scaffold'"):
        PluginOptimizer(0.1, modules=["momentum"]).process_aux_var({"scaffold": ScaffoldAuxVar(state=0.0)})
    with pytest.raises(TypeError, match="no messages"):
        client.process_aux_var(ScaffoldAuxVar(state=0.0))


def test_two_modules_cannot_talk_under_one_name():
    """In declearn one of them silently takes the place of the other."""
    with pytest.raises(CompositionError, match="'scaffold'"):
        PluginOptimizer(0.1, modules=["scaffold-client", ScaffoldClientModule()])


def test_a_server_means_over_the_clients_that_it_has_heard_of_and_knows_them_again():
    server = PluginOptimizer(1.0, modules=["scaffold-server"])
    assert server.collect_aux_var()["scaffold"].state == 0.0
    for names, wanted in (({"a"}, 1.0), ({"a", "b"}, 1.0), ({"b"}, 1.5)):
        server.process_aux_var({"scaffold": ScaffoldAuxVar(delta={"w": np.ones(1)}, clients=names)})
        assert server.collect_aux_var()["scaffold"].state["w"] == wanted
    again = PluginOptimizer.from_config(server.get_config())
    again.set_state(json.loads(json.dumps(server.get_state())))
    assert again.collect_aux_var() == server.collect_aux_var()
    again.process_aux_var({"scaffold": ScaffoldAuxVar(delta={"w": np.ones(1)}, clients={"a"})})
    assert again.collect_aux_var()["scaffold"].state["w"] == 2.0


def test_a_client_keeps_its_identity_and_no_two_have_one():
    first, second = stepped(), stepped()
    again = PluginOptimizer.from_config(first.get_config())
    again.set_state(first.get_state())
    names = [opt.collect_aux_var()["scaffold"].clients for opt in (first, second, again)]
    assert names[0] == names[2] != names[1]
