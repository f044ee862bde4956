"""Searches for critical samples: memjax beside the plain LASS loop and foolbox's LinfPGD.

    pip install . torch foolbox==3.3.4
    python -m benchmarks.critical                      # scikit-learn's digits
    python -m benchmarks.critical --data_dir=DIR       # MNIST, prepared by TFDS in DIR

A 512-512 ReLU network is trained on the data, then 2000 images are searched at the three radii at
which LASS finds about .3, .5 and .9 of them (by bisection on the first 500). The digits are 1797,
so that 203 are repeated, moved by one pixel. The plain loop is 100 jitted iterations of algorithm 1
on the whole batch, in which an example whose class has changed rests but is computed; foolbox makes
40 steps of .25 radius, in PyTorch with the same weights, from random starts; "bounds" is the union
of memjax's searches, and its time holds the certificates. The logits of both sides are compared
before anything is timed. A ratio is the median, over rounds that run every side once, of the ratio
of examples per second within the round; the times are the smallest of the rounds.
"""

import argparse
import functools
import importlib.util
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.rows import record
from benchmarks.torch_mlp import torch_mlp
from memjax import config
from memjax.analysis.critical import critical_bounds, critical_sample_ratio, lass
from memjax.data.sources import load_dataset

NUM_IMAGES, WIDTH, NUM_STEPS, MAX_STEPS = 2000, 512, 600, 100
# CSR: the least ratio that is aimed at, of LASS to the plain loop, and of the bounds to foolbox.
TARGETS = {0.3: (None, 1.0), 0.5: (1.5, 1.5), 0.9: (3.0, 3.0)}


def logits_fn(params, images):
    """Returns the logits [n classes] of a ReLU network on flat images."""
    for weights, bias in params[:-1]:
        images = jax.nn.relu(images @ weights + bias)
    weights, bias = params[-1]
    return images @ weights + bias


def load_images(data_dir: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns flat training images in [0, 1], their labels, and the images to search."""
    if data_dir:
        dataset = load_dataset(
            config.Dataset(
                source="tfds", name="mnist", data_dir=data_dir, num_train=10000,
                num_validation=NUM_IMAGES,
            )
        )  # fmt: skip
        searched = dataset.validation.images
    else:
        dataset = load_dataset(config.Dataset(source="digits", num_validation=0))
        moved = np.roll(dataset.train.images, 1, axis=2)
        searched = np.concatenate([dataset.train.images, moved])[:NUM_IMAGES]
    flat = [np.asarray(part).reshape(len(part), -1) for part in (dataset.train.images, searched)]
    images, searched = [
        (part / 255 if part.dtype == np.uint8 else part).astype(np.float32) for part in flat
    ]
    return images, dataset.train.labels, searched


def train(images: np.ndarray, labels: np.ndarray) -> list:
    """Returns the parameters after some steps of Adam on batches of 100."""
    rng = np.random.default_rng(0)
    sizes = [images.shape[1], WIDTH, WIDTH, 10]
    params = [
        (
            jnp.asarray(rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out)), jnp.float32),
            jnp.zeros(fan_out),
        )
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, images, labels):
        def loss(params):
            logits = logits_fn(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(NUM_STEPS):
        batch = rng.integers(len(images), size=100)
        params, state = step(params, state, images[batch], labels[batch])
    return params


@jax.jit
def plain_lass(key, params, images, radius):
    """Algorithm 1 of the paper on the whole batch; returns which classes have changed, [n]."""
    labels = logits_fn(params, images).argmax(-1)
    # The noise of memjax's search, so that luck decides no comparison.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))

    def step(index, state):
        points, is_found = state

        def loss(points):
            logits = logits_fn(params, points)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.sum(), logits

        gradient, logits = jax.grad(loss, has_aux=True)(points)
        is_found |= logits.argmax(-1) != labels
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        noise = jax.vmap(lambda key: jax.random.normal(key, points.shape[1:]))(step_keys)
        moved = points + radius * (0.25 / 0.3 * jnp.sign(gradient) + 0.2 / 0.3 * noise)
        moved = jnp.clip(moved, images - radius, images + radius)
        return jnp.where(is_found[:, None], points, moved), is_found

    state = images, jnp.zeros(len(images), bool)
    points, is_found = jax.lax.fori_loop(0, MAX_STEPS, step, state)
    return is_found | (logits_fn(params, points).argmax(-1) != labels)


def make_foolbox(params, images):
    """Returns a function of the radius that runs foolbox's LinfPGD, or None where it is missing."""
    if importlib.util.find_spec("foolbox") is None:
        return None
    import foolbox
    import torch

    model = torch_mlp(params).eval()
    inputs = torch.tensor(np.asarray(images))
    with torch.no_grad():
        logits = model(inputs)
    np.testing.assert_allclose(logits, logits_fn(params, images), rtol=1e-3, atol=1e-3)
    # Bounds so wide that they clip nothing, as on the other sides.
    wrapped = foolbox.PyTorchModel(model, bounds=(-10, 11), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=40, rel_stepsize=0.25)
    return lambda radius: attack(wrapped, inputs, logits.argmax(-1), epsilons=radius)[2].numpy()


def find_radius(ratio: float, search) -> float:
    """Returns a radius at which `search` finds about `ratio` of the images."""
    low, high = 1e-3, 0.5
    for _ in range(8):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if search(middle).mean() < ratio else (low, middle)
    return (low * high) ** 0.5


def measure(sides: dict, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of every side in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(key, params, images, radius, rounds, run_foolbox, targets) -> None:
    """Prints the rows of one radius."""
    searches = {
        "plain": lambda: np.asarray(plain_lass(key, params, images, radius)),
        "lass": lambda: np.asarray(lass(key, logits_fn, params, images, radius).is_critical),
        "bounds": lambda: np.asarray(critical_bounds(key, logits_fn, params, images, radius).lower),
    }
    if run_foolbox is not None:
        searches["foolbox"] = functools.partial(run_foolbox, radius)
    ratios = {name: critical_sample_ratio(search()) for name, search in searches.items()}
    upper = critical_bounds(key, logits_fn, params, images, radius).upper
    seconds = measure(searches, rounds)
    print(f"\nradius {radius:.4f}: CSR " + ", ".join(f"{k} {v:.4f}" for k, v in ratios.items()))
    print(f"  certified upper bound of the CSR {critical_sample_ratio(upper):.4f}")
    if "foolbox" in ratios:
        finds = "as much as" if ratios["bounds"] >= ratios["foolbox"] else "LESS THAN"
        print(f"  bounds find {finds} foolbox")
    aims = {("lass", "plain"): targets[0], ("bounds", "foolbox"): targets[1]}
    for ours, peer in itertools.product(("lass", "bounds"), ("plain", "foolbox")):
        if peer not in seconds:
            print(f"{ours:8}{peer:10}  foolbox is not installed")
            continue
        ratio = np.median(np.divide(seconds[peer], seconds[ours]))
        what = f"{ours}, CSR {ratios['lass']:.2f} by LASS"
        record(what, peer, ratio, aims.get((ours, peer)))
        print(
            f"{ours:8}{peer:10}{min(seconds[ours]) * 1e3:10.1f}{min(seconds[peer]) * 1e3:10.1f}"
            f"{ratio:8.2f}{aims.get((ours, peer)) or '-':>8}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", help="where TFDS has MNIST; without it, the digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_images", type=int, default=NUM_IMAGES)
    options = parser.parse_args()
    train_images, labels, images = load_images(options.data_dir)
    images = jnp.asarray(images[: options.num_images])
    params = train(train_images, labels)
    key = jax.random.key(0)
    run_foolbox = make_foolbox(params, images)
    print(f"{len(images)} images of {images.shape[1]} pixels")
    print(f"{'memjax':8}{'peer':10}{'ms':>10}{'peer ms':>10}{'ratio':>8}{'target':>8}")
    some = images[:500]
    for ratio, targets in TARGETS.items():
        radius = find_radius(ratio, lambda r: lass(key, logits_fn, params, some, r).is_critical)
        compare(key, params, images, radius, options.rounds, run_foolbox, targets)


if __name__ == "__main__":
    main()
