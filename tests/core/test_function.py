"""Functions with their variables, given or found."""

from __future__ import annotations

import functools
import inspect
import re
import types

import jax
import jax.numpy as jnp
import pytest

from optimkit import Function, GradValues, Jit, Module, ModuleList, StateVar, TrainVar, VarCollection
from optimkit.core import find_used_variables
from optimkit.errors import StructureError

global_w = TrainVar(jnp.full(2, 2.0))
global_list = [StateVar(1.0)]
config = types.SimpleNamespace(scale=StateVar(3.0), nested=types.SimpleNamespace(b=StateVar(1.0)), rate=0.5)


class Net(Module):
    def __init__(self):
        self.w, self.b = TrainVar(jnp.ones(2)), TrainVar(jnp.zeros(2))

    def __call__(self, x):
        return self.w * x + self.b

    def loss(self, x):
        return sum([jnp.sum(self(y)) for y in [x, x]])


class Trainer:
    """An object that is no module and has variables as attributes."""

    def __init__(self):
        self.net, self.steps, self.unused = Net(), StateVar(0), StateVar(0)

    def step(self, x):
        self.steps.value += 1
        return x * self.net.w.value


def helper(x):
    return second_helper(x) * config.scale


def second_helper(x):
    return x * global_w if x is not None else helper(x)


# --- with_vars --------------------------------------------------------------------------------------------------------


def test_a_function_with_its_variables_is_called_and_transformed_like_the_function():
    net = Net()

    @Function.with_vars(net.vars())
    def f(x, *, power: int = 1):
        """Document f."""
        return jnp.sum(net(x) ** power)

    x = jnp.array([1.0, 2.0])
    assert float(f(x)) == 3.0
    assert float(Jit(f, static_argnames="power")(x, power=2)) == float(f(x, power=2)) == 5.0
    assert GradValues(f, f.vars())(x)[0][0].tolist() == [1.0, 2.0]
    assert list(inspect.signature(f).parameters) == ["x", "power"]
    assert (f.__name__, f.__doc__) == ("f", "Document f.")
    assert f.vars() == net.vars("{f}")
    assert repr(f) == "Function(f, 2 variables)"


def test_an_object_without_a_name_gives_no_prefix():
    net = Net()
    f = Function(functools.partial(lambda x, y: net(x) * y, y=2.0), net.vars())
    assert f.vars() == net.vars()
    assert f(jnp.ones(2)).tolist() == [2.0, 2.0]
    assert "Function(functools.partial" in repr(f)


def test_a_function_of_a_function_or_transform_has_the_variables_given_last():
    net, s = Net(), StateVar(0.0)
    for inner in (Function(net.__call__, net.vars()), Jit(net), net):
        outer = Function(inner, net.vars() + {"s": s})
        assert list(outer.vars()) == [*net.vars(), s]
        assert outer(jnp.ones(2)).tolist() == [1.0, 1.0]


def test_a_functions_vars_are_a_new_collection_each_time():
    f = Function(abs, VarCollection({"w": global_w}))
    f.vars()["other"] = StateVar(0.0)
    assert list(f.vars().keys()) == ["{abs}w"]


# --- auto_vars --------------------------------------------------------------------------------------------------------


def test_globals_and_closures_are_found_and_a_closure_hides_a_global():
    local = StateVar(1.0)

    def outer():
        global_w = TrainVar(jnp.zeros(1))
        return global_w, lambda x: x * global_w + local

    hidden, f = outer()
    assert find_used_variables(f) == {"global_w": hidden, "local": local}
    assert find_used_variables(lambda x: x * global_w) == {"global_w": global_w}


def test_a_module_counts_with_all_its_variables_under_the_name_it_has_there():
    net, layers = Net(), ModuleList([Net()])

    def loss(x):
        return net(x) + layers[0].w

    assert find_used_variables(loss) == net.vars("net.") + layers.vars("layers.")


def test_attributes_of_plain_objects_and_python_modules_are_followed():
    assert find_used_variables(lambda x: x * config.scale + config.nested.b.value * config.rate) == {
        "config.scale": config.scale, "config.nested.b": config.nested.b,
    }  # fmt: skip
    python_module = types.ModuleType("m")
    python_module.net = Net()
    assert find_used_variables(lambda x: python_module.net(x)) == python_module.net.vars("python_module.net.")


def test_the_object_of_a_method_is_looked_at():
    net, trainer = Net(), Trainer()
    assert find_used_variables(net.loss) == net.vars("self.")
    assert find_used_variables(trainer.step) == {"self.steps": trainer.steps, **net_vars(trainer)}


def net_vars(trainer):
    return trainer.net.vars("self.net.")


def test_an_attribute_is_not_taken_for_a_global_of_the_same_name():
    class Other:
        global_w = 1.0

    other = Other()
    assert find_used_variables(lambda: other.global_w) == {}


def test_helpers_are_followed_also_when_they_call_each_other():
    assert find_used_variables(lambda x: helper(x)) == {
        "helper.second_helper.global_w": global_w, "helper.config.scale": config.scale,
    }  # fmt: skip


def test_two_helpers_of_one_factory_are_two_helpers():
    def make(w):
        return lambda x: x * w

    a, b = make(TrainVar(1.0)), make(TrainVar(2.0))
    vc = find_used_variables(lambda x: a(x) + b(x))
    assert list(vc.keys()) == ["a.w", "b.w"]
    assert vc.tensors() == [1.0, 2.0]


def test_inner_functions_and_comprehensions_are_looked_into():
    net = Net()

    def f(x):
        inner = lambda y: net(y)  # noqa: E731
        return [inner(y) * global_w for y in x]

    assert find_used_variables(f) == {**net.vars("net."), "global_w": global_w}


def test_a_decorated_function_is_looked_at_itself():
    @functools.wraps(helper)
    def wrapped(x):
        return helper(x)

    assert find_used_variables(jax.jit(lambda x: x * global_w)) == {"global_w": global_w}
    assert list(find_used_variables(wrapped)) == [global_w, config.scale]


def test_a_name_without_a_value_yet_is_no_variable():
    def f(x):
        return later(x)

    assert find_used_variables(f) == {}
    later = Net()
    assert find_used_variables(f) == later.vars("later.")


def test_a_function_with_hundreds_of_names_is_read_whole():
    # More than 255 names take an extra instruction before the one that loads them.
    source = "lambda x: " + " + ".join(["x", *(f"c.a{i}" for i in range(300)), "c.w"])
    w = StateVar(1.0)
    f = eval(source, {"c": types.SimpleNamespace(w=w)})
    assert find_used_variables(f) == {"c.w": w}


@pytest.mark.parametrize("f", [abs, functools.partial(helper, 1.0), Net()], ids=["builtin", "partial", "module"])
def test_what_has_no_python_code_is_refused_with_the_fix(f):
    with pytest.raises(StructureError, match=r"(?s)is not a Python function.*Function.with_vars\(model.vars\(\)\)"):
        Function.auto_vars(f)


def test_variables_in_a_plain_container_raise_and_name_it():
    with pytest.raises(StructureError, match=re.escape("'global_list' hides the StateVar in a plain list")):
        find_used_variables(lambda: global_list[0] + 1)


def test_auto_vars_makes_a_function_that_compiles():
    net = Net()

    @Function.auto_vars
    def step(x):
        net.b.assign(net.b + x)
        return net(x)

    assert step.vars() == net.vars("{step}net.")
    assert Jit(step)(jnp.ones(2)).tolist() == [2.0, 2.0]
    assert net.b.value.tolist() == [1.0, 1.0]
