"""Train a small convolutional network on handwritten digits, and evaluate it with its averaged weights.

Run it with `make demo`, or `python docs/examples/digits.py`. It takes a minute on two cores, shows a progress bar, and
leaves a picture in digits.png.

The data are the 1,797 images of scikit-learn's digits (8 x 8 pixels, ten classes): real ones, small enough to learn
from in a minute. A fifth of them is kept for testing.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from optimkit import GradValues, Jit, Module, functional, nn, optimizer, random, schedule

EPOCHS, BATCH, PEAK_LR = 25, 64, 4e-3


# A module is an object whose attributes are variables and other modules. It is also the function that it computes.
class Net(Module):
    def __init__(self) -> None:
        self.layers = nn.Sequential([
            nn.Conv2D(1, 32, 3), nn.BatchNorm2D(32, momentum=0.9), functional.relu,
            nn.Conv2D(32, 32, 3), nn.BatchNorm2D(32, momentum=0.9), functional.relu, max_pool,
            nn.Conv2D(32, 64, 3), nn.BatchNorm2D(64, momentum=0.9), functional.relu, average_pool,
            nn.Dropout(0.8), nn.Linear(64, 10),
        ])  # fmt: skip

    def __call__(self, images: jax.Array, training: bool) -> jax.Array:
        return self.layers(images, training=training)


def max_pool(x: jax.Array) -> jax.Array:
    return functional.max_pool_2d(x, size=2, strides=2)


def average_pool(x: jax.Array) -> jax.Array:
    return x.mean((2, 3))


def main() -> None:
    random.DEFAULT_GENERATOR.seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels)  # fmt: skip
    steps_per_epoch = len(x_train) // BATCH

    # The model, its optimizer, and a copy of the model that runs at the moving averages of its weights.
    model = Net()
    lr = schedule.WarmupCosine(peak=PEAK_LR, warmup_steps=2 * steps_per_epoch, steps=EPOCHS * steps_per_epoch)
    opt = optimizer.AdamW(model.vars(), weight_decay=0.02, lr=lr)
    averaged = optimizer.ExponentialMovingAverageModule(model, momentum=0.99, warmup=True, debias=True)
    print(model.vars(), f"\n\n{opt}\n")

    # The loss is an ordinary function. GradValues differentiates it with respect to the TrainVars of the model.
    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return functional.loss.cross_entropy_logits_sparse(model(x, training=True), y).mean()

    gradients = GradValues(loss, model.vars())

    def train(x: jax.Array, y: jax.Array) -> jax.Array:
        grads, values = gradients(x, y)
        opt.step(grads)
        averaged.update_ema()
        return values[0]

    # Compile, and say which variables change: weights, statistics and Dropout's generator; moments; averages.
    train = Jit(train, model.vars() + opt.vars() + averaged.vars(), donate=True)
    predict = Jit(lambda x: model(x, training=False), model.vars())
    predict_averaged = Jit(lambda x: averaged(x, training=False), averaged.vars())

    shuffler = np.random.default_rng(0)
    history = []
    progress = tqdm(range(EPOCHS), unit="epoch")
    for epoch in progress:
        order = shuffler.permutation(len(x_train))[: steps_per_epoch * BATCH].reshape(steps_per_epoch, BATCH)
        losses = [train(x_train[batch], y_train[batch]) for batch in order]
        raw = np.mean(predict(x_test).argmax(1) == y_test)
        ema = np.mean(predict_averaged(x_test).argmax(1) == y_test)
        history.append((epoch + 1, float(jnp.stack(losses).mean()), raw, ema))
        progress.set_postfix_str(f"loss {history[-1][1]:.3f}, test accuracy {raw:.2%}, averaged {ema:.2%}")

    print(f"\ntest accuracy: {raw:.2%} with the last weights, {ema:.2%} with the averaged weights")
    plot(np.array(history), Path("digits.png"))
    if ema < 0.98:
        raise SystemExit("the averaged weights should reach 98 %: something is broken")


def plot(history: np.ndarray, path: Path) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    epoch, loss, raw, ema = history.T
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(epoch, loss, color="tab:gray")
    left.set(xlabel="epoch", ylabel="training loss", yscale="log", title="Training loss")
    right.plot(epoch, 100 * raw, color="tab:orange", label="last weights")
    right.plot(epoch, 100 * ema, color="tab:blue", label="averaged weights")
    right.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(95, 100.1), title="Test accuracy")
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
