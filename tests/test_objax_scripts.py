"""Scripts in objax's style run with their import line changed, and give the numbers of a plain reimplementation.

Each function named ``script_...`` is written as people wrote for objax 1.8: only its import differs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .oracles import oracle_adam, oracle_ema, oracle_lars, oracle_momentum

N, D = 24, 4
rng = np.random.default_rng(3)
INPUTS = rng.normal(size=(N, D)).astype(np.float32)
LABELS = (INPUTS @ rng.normal(size=D) > 0).astype(np.int32)
TARGETS = (INPUTS @ rng.normal(size=(D, 2)) + 0.1 * rng.normal(size=(N, 2))).astype(np.float32)


def batches(epochs, size=8):
    return [slice(i, i + size) for _ in range(epochs) for i in range(0, N, size)]


def trajectory(oracle, gradient, params, lrs, **hyper):
    """Return the parameters at the end and on the way: ``gradient(params, i)`` is asked at each step, in float64.

    The oracle takes gradients as data, so it is run again with one gradient more until all are known.
    """
    known = [params]
    grads = []
    for i in range(len(lrs)):
        grads.append(gradient(known[-1], i))
        known = [params, *oracle(params, grads, lrs[: i + 1], **hyper)]
    return known


# --- logistic regression with momentum and a step decay ---------------------------------------------------------------


def script_logistic_regression(epochs):
    import optimkit as objax

    class Classifier(objax.Module):
        def __init__(self, nin):
            self.w = objax.TrainVar(jnp.zeros((nin, 1)))
            self.b = objax.TrainVar(jnp.zeros((1,)))

        def __call__(self, x):
            return jnp.dot(x, self.w.value) + self.b.value

    model = Classifier(D)
    opt = objax.optimizer.Momentum(model.vars(), 0.9, True)
    scheduler = objax.optimizer.scheduler.StepDecay(step_size=3, base_lr=0.5, gamma=0.1)

    @objax.Function.with_vars(model.vars())
    def loss(x, label):
        logit = model(x)
        cross_entropy = objax.functional.loss.sigmoid_cross_entropy_logits(logit, label[:, None].astype(jnp.float32))
        return cross_entropy.mean() + 0.01 * 0.5 * sum((v.value**2).sum() for k, v in model.vars().items() if "w" in k)

    gv = objax.GradValues(loss, model.vars())

    @objax.Function.with_vars(model.vars() + gv.vars() + opt.vars())
    def train_op(x, label, lr):
        g, v = gv(x, label)
        opt(lr, g)
        return v

    train_op = objax.Jit(train_op)
    predict = objax.Jit(objax.Function.with_vars(model.vars())(lambda x: objax.functional.sigmoid(model(x))))

    losses = []
    for i, batch in enumerate(batches(epochs)):
        losses.append(float(train_op(INPUTS[batch], LABELS[batch], scheduler(i // 3))[0]))
    return losses, model.vars(), predict(INPUTS)


def test_logistic_regression_with_momentum_and_step_decay():
    epochs = 6
    losses, variables, probabilities = script_logistic_regression(epochs)
    plan = batches(epochs)

    def loss_and_gradient(p, i):
        x, y = INPUTS[plan[i]].astype(np.float64), LABELS[plan[i]][:, None].astype(np.float64)
        z = x @ p["w"] + p["b"]
        error = (1 / (1 + np.exp(-z)) - y) / len(y)
        loss = np.mean(np.logaddexp(0, z) - y * z) + 0.005 * np.sum(p["w"] ** 2)
        return loss, {"w": x.T @ error + 0.01 * p["w"], "b": error.sum(0)}

    lrs = [0.5 * 0.1 ** (i // 3 // 3) for i in range(len(plan))]
    start = {"w": np.zeros((D, 1)), "b": np.zeros(1)}
    known = trajectory(
        oracle_momentum, lambda p, i: loss_and_gradient(p, i)[1], start, lrs, momentum=0.9, nesterov=True
    )
    np.testing.assert_allclose(losses, [loss_and_gradient(p, i)[0] for i, p in enumerate(known[:-1])], atol=1e-5)
    assert list(variables.keys()) == ["(Classifier).w", "(Classifier).b"]
    np.testing.assert_allclose(variables["(Classifier).w"].value, known[-1]["w"], atol=1e-5)
    assert np.mean((np.asarray(probabilities)[:, 0] > 0.5) == LABELS) >= 0.9


# --- a network with batch normalisation, Adam, and evaluation at the moving average -----------------------------------


def script_network_with_moving_average(epochs):
    import optimkit as objax

    class MLP(objax.nn.Sequential):
        def __init__(self, nin, hidden, nclass):
            super().__init__(
                [
                    objax.nn.Linear(nin, hidden, use_bias=False),
                    objax.nn.BatchNorm0D(hidden, momentum=0.9),
                    objax.functional.relu,
                    objax.nn.Linear(hidden, nclass),
                ]
            )

    objax.random.DEFAULT_GENERATOR.seed(1)
    model = MLP(D, 6, 2)
    start = {k: np.asarray(v.value) for k, v in model.vars().items()}
    model_ema = objax.optimizer.ExponentialMovingAverageModule(model, momentum=0.8, debias=True)
    opt = objax.optimizer.Adam(model.vars(), beta2=0.99)

    def loss(x, label):
        logit = model(x, training=True)
        return objax.functional.loss.cross_entropy_logits_sparse(logit, label).mean()

    gv = objax.GradValues(loss, model.vars())

    def train_op(x, label, lr):
        g, v = gv(x, label)
        opt(lr, g, beta1=0.8)
        model_ema.update_ema()
        return v

    train_op = objax.Jit(train_op, gv.vars() + opt.vars() + model_ema.vars())
    eval_op = objax.Jit(lambda x: objax.functional.softmax(model_ema(x, training=False)), model_ema.vars())

    for batch in batches(epochs):
        train_op(INPUTS[batch], LABELS[batch], 0.02)
    return start, model.vars(), eval_op(INPUTS)


def test_a_network_with_batch_norm_adam_and_a_moving_average():
    epochs, eps = 4, 1e-6
    start, variables, probabilities = script_network_with_moving_average(epochs)
    plan = batches(epochs)
    short = {k: k.split(")")[-1].lstrip(".") + ("0" if "[0]" in k else "1" if "[1]" in k else "3") for k in start}
    params = {short[k]: v.astype(np.float64) for k, v in start.items() if "running" not in k}
    stats = {short[k]: v.astype(np.float64) for k, v in start.items() if "running" in k}
    assert sorted(params) == ["b3", "beta1", "gamma1", "w0", "w3"]

    def normalized(p, x, mean, var, xp):
        h = x @ p["w0"]
        mean, var = (h.mean(0, keepdims=True), h.var(0, keepdims=True)) if mean is None else (mean, var)
        return mean, var, p["gamma1"] * (h - mean) / xp.sqrt(var + eps) + p["beta1"]

    def loss(p, x, y):
        z = jnp.maximum(normalized(p, x, None, None, jnp)[2], 0) @ p["w3"] + p["b3"]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - z[jnp.arange(len(y)), y])

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))

        def gradient_at(p, i):
            x = jnp.asarray(INPUTS[plan[i]], jnp.float64)
            return {k: np.asarray(g) for k, g in gradient(p, x, LABELS[plan[i]]).items()}

        known = trajectory(oracle_adam, gradient_at, params, [0.02] * len(plan), beta1=0.8, beta2=0.99, eps=1e-8)
    seen = []
    for p, batch in zip(known[:-1], plan, strict=True):
        mean, var, _ = normalized(p, INPUTS[batch].astype(np.float64), None, None, np)
        for name, new in (("running_mean1", mean), ("running_var1", var)):
            stats[name] = 0.9 * stats[name] + 0.1 * new
        seen.append(dict(stats))
    for k, v in variables.items():
        wanted = seen[-1] if "running" in k else known[-1]
        np.testing.assert_allclose(v.value, wanted[short[k]], atol=2e-5, err_msg=k)
    averages = oracle_ema([p | s for p, s in zip(known[1:], seen, strict=True)], momentum=0.8, debias=True)[-1]
    h = normalized(averages, INPUTS.astype(np.float64), averages["running_mean1"], averages["running_var1"], np)[2]
    z = np.maximum(h, 0) @ averages["w3"] + averages["b3"]
    wanted = np.exp(z - z.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, wanted / wanted.sum(1, keepdims=True), atol=1e-4)


# --- an optimizer of one's own, written against the variables ---------------------------------------------------------


def script_custom_optimizer(steps):
    import optimkit as objax

    class RMSProp(objax.Module):
        def __init__(self, vc, decay=0.9, eps=1e-3):
            self.decay = decay
            self.eps = eps
            self.step = objax.StateVar(jnp.array(0, jnp.uint32), reduce=lambda x: x[0])
            self.train_vars = objax.ModuleList(objax.TrainRef(x) for x in vc.subset(objax.TrainVar))
            self.v = objax.ModuleList(objax.StateVar(jnp.zeros_like(x.value)) for x in self.train_vars)

        def __call__(self, lr, grads, decay=None):
            assert len(grads) == len(self.train_vars), "Expecting as many gradients as trainable variables"
            if decay is None:
                decay = self.decay
            self.step.value += 1
            for g, p, v in zip(grads, self.train_vars, self.v):  # noqa: B905
                v.value = decay * v.value + (1 - decay) * g**2
                p.value -= lr * g * objax.functional.rsqrt(v.value + self.eps)

        def __repr__(self):
            return f"{self.__class__.__name__}(decay={self.decay})"

    w = objax.TrainVar(jnp.zeros((D, 2)))
    b = objax.TrainVar(jnp.zeros(2))
    vc = objax.VarCollection({"w": w, "b": b})
    opt = RMSProp(vc)
    ema = objax.optimizer.ExponentialMovingAverage(vc, momentum=0.75)

    def loss(x, y):
        return objax.functional.loss.mean_squared_error(jnp.dot(x, w.value) + b.value, y).mean()

    gv = objax.GradValues(loss, vc)

    def train_op(x, y):
        grads, values = gv(x, y)
        opt(0.05, grads)
        ema()
        return values[0]

    train_op = objax.Jit(train_op, vc + opt.vars() + ema.vars())
    evaluate = objax.Jit(ema.replace_vars(loss), vc + ema.vars())
    for _ in range(steps):
        train_op(INPUTS, TARGETS)
    return repr(opt), opt.vars(), vc, float(evaluate(INPUTS, TARGETS))


def test_an_optimizer_of_ones_own_is_a_module_with_references():
    steps = 12
    text, state, vc, loss_at_average = script_custom_optimizer(steps)
    x, y = INPUTS.astype(np.float64), TARGETS.astype(np.float64)
    p = {"w": np.zeros((D, 2)), "b": np.zeros(2)}
    v = {k: np.zeros_like(a) for k, a in p.items()}
    seen = []
    for _ in range(steps):
        error = 2 * (x @ p["w"] + p["b"] - y) / y.size
        g = {"w": x.T @ error, "b": error.sum(0)}
        v = {k: 0.9 * v[k] + 0.1 * g[k] ** 2 for k in p}
        p = {k: p[k] - 0.05 * g[k] / np.sqrt(v[k] + 1e-3) for k in p}
        seen.append(p)
    for k in p:
        np.testing.assert_allclose(vc[k].value, p[k], atol=1e-5)
    average = oracle_ema(seen, momentum=0.75)[-1]
    np.testing.assert_allclose(loss_at_average, np.mean((x @ average["w"] + average["b"] - y) ** 2), atol=1e-5)
    assert text == "RMSProp(decay=0.9)"
    assert list(state.keys()) == [
        "(RMSProp).step",
        "(RMSProp).train_vars(ModuleList)[0]",
        "(RMSProp).train_vars(ModuleList)[1]",
        "(RMSProp).v(ModuleList)[0]",
        "(RMSProp).v(ModuleList)[1]",
    ]
    assert state["(RMSProp).step"].value == steps


# --- LARS, with gradients of single examples --------------------------------------------------------------------------


def script_lars_with_clipped_examples(steps):
    import optimkit as objax

    model = objax.nn.Linear(D, 2, w_init=lambda shape: 0.5 * jnp.ones(shape))
    opt = objax.optimizer.LARS(model.vars(), weight_decay=1e-2, tc=0.1)

    @objax.Function.with_vars(model.vars())
    def loss(x, y):
        return ((model(x) - y) ** 2).sum()

    single = objax.Vectorize(objax.Grad(loss, model.vars()), batch_axis=(0, 0))

    @objax.Function.with_vars(model.vars() + opt.vars())
    def train_op(x, y, t):
        grads = single(x, y)
        norm = jnp.sqrt(sum((g**2).sum(axis=tuple(range(1, g.ndim))) for g in grads))
        scale = jnp.minimum(1, 1 / norm)
        opt(0.5 * (1 - t / steps) ** 2, [jnp.tensordot(scale, g, 1) / len(x) for g in grads])

    train_op = objax.Jit(train_op, static_argnums=(2,))
    for t in range(steps):
        train_op(INPUTS, TARGETS, t)
    return model.vars()


def test_lars_with_gradients_of_single_examples():
    steps = 5
    variables = script_lars_with_clipped_examples(steps)
    x, y = INPUTS.astype(np.float64), TARGETS.astype(np.float64)

    def gradient(p, i):
        error = 2 * (x @ p["w"] + p["b"] - y)
        single = {"b": error, "w": x[:, :, None] * error[:, None, :]}
        norm = np.sqrt((single["w"] ** 2).sum((1, 2)) + (single["b"] ** 2).sum(1))
        return {k: np.tensordot(np.minimum(1, 1 / norm), g, 1) / N for k, g in single.items()}

    start = {"b": np.zeros(2), "w": np.full((D, 2), 0.5)}
    lrs = [0.5 * (1 - t / steps) ** 2 for t in range(steps)]
    known = trajectory(oracle_lars, gradient, start, lrs, momentum=0.9, weight_decay=1e-2, tc=0.1, eps=1e-5)
    for k in ("w", "b"):
        np.testing.assert_allclose(variables[f"(Linear).{k}"].value, known[-1][k], atol=1e-5)


@pytest.mark.parametrize("name", ["optimizer", "functional", "nn", "random", "util", "variable", "module", "gradient"])
def test_the_parts_of_objax_that_scripts_import_are_there(name):
    import optimkit

    assert hasattr(optimkit, name)
