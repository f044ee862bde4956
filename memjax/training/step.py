"""One step of training of one network: a pure (state, batch, key) -> (state, metrics)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import memjax.config as config_lib
from memjax.analysis._search.lass_step import lass_samples
from memjax.analysis.losses import softmax_cross_entropy
from memjax.data.augmentation import augment, mixup
from memjax.keys import tagged
from memjax.models.adapters import Model, adapted
from memjax.models.convolution import METHODS
from memjax.models.regularizers import Regularizers, apply_input_regularizers, is_off
from memjax.runtime.flops import count_flops
from memjax.training.state import TrainState, init_state


class Batch(NamedTuple):
    """The examples of one step.

    Attributes:
      images: [batch height width channels], as stored: uint8, or float32 in [0, 1].
      labels: int32 [batch].
      mask: bool [batch], False where a row is padding; None when no row is.
    """

    images: jax.Array
    labels: jax.Array
    mask: jax.Array | None = None


class Targets(NamedTuple):
    """What the logits of a batch are to say.

    Attributes:
      labels: int32 [batch].
      other_labels: int32 [batch], of the images mixed in; None where nothing is mixed.
      share: scalar, of `labels` in the target; the rest is that of `other_labels`.
    """

    labels: jax.Array
    other_labels: jax.Array | None = None
    share: Any = 1.0


class Adversarial(NamedTuple):
    """Adversarial training on LASS samples (the paper's figure 10); off by default.

    Attributes:
      weight: the loss is (1 - weight) clean + weight adversarial; the Python number 0 is free.
      radius: max-norm, in [0, 1] pixel units.
      num_steps: of the search, static.
    """

    weight: Any = 0.0
    radius: Any = 0.0
    num_steps: int = 1


class Network(NamedTuple):
    """A model and what stands between it and stored pixels.

    Attributes:
      model: a flax linen module, or a `Model` of another framework, on standardised images.
      mean: taken off the pixels, scalar or [channels], in [0, 1] units.
      std: the pixels are divided by it, likewise.
      regularizers: strengths; the model has its own copy of the hidden ones.
      compute_dtype: of the forward and backward pass; parameters stay float32.
      adversarial: training on LASS samples as well.
      augmentation: of the training batches alone.
      label_smoothing: share of the targets spread evenly over the classes.
    """

    model: nn.Module | Model
    mean: Any = 0.0
    std: Any = 1.0
    regularizers: Regularizers = Regularizers()
    compute_dtype: Any = jnp.float32
    adversarial: Adversarial = Adversarial()
    augmentation: config_lib.Augmentation = config_lib.Augmentation()
    label_smoothing: Any = 0.0


def unit_pixels(images: jax.Array) -> jax.Array:
    """Returns stored images as float32, uint8 scaled to [0, 1]."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images


def standardize(network: Network, images: jax.Array) -> jax.Array:
    """Returns images in the units that the model sees.

    Args:
      network: with the moments of the training data.
      images: [n height width channels], float32 in [0, 1].
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, std = (
        jnp.reshape(jnp.asarray(m, jnp.float32), shape) for m in (network.mean, network.std)
    )
    return (images - mean) / std


def for_inference(network: Network) -> Network:
    """Returns the network with XLA's own convolutions: same parameters, results to rounding.

    They are the fastest forward on CPU, and what analyses that look into the computation know.
    """
    # A field `method` of a user's own network is not ours to change.
    is_ours = type(network.model).__module__.startswith("memjax.models.")
    if not is_ours or not isinstance(network.model, nn.Module):
        return network
    if getattr(network.model, "method", None) not in METHODS:
        return network
    return network._replace(model=network.model.clone(method="lax"))


def make_logits_fn(
    network: Network, dtype: Any = jnp.float32
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns `logits_fn(params, images) -> logits`, the network in inference mode.

    params: collections, the running statistics of BatchNorm too (their gradient is zero);
    images: [n height width channels], float32 in [0, 1]; logits: [n classes]. It computes in
    `dtype`, whatever the parameters are stored as.
    """

    model = adapted(network.model)

    def logits_fn(params: Any, images: jax.Array) -> jax.Array:
        trained = params["params"]
        frozen = {k: jax.lax.stop_gradient(v) for k, v in params.items() if k != "params"}
        images = standardize(network, images)
        if dtype != jnp.float32:
            images = images.astype(dtype)
            trained = jax.tree.map(lambda leaf: leaf.astype(dtype), trained)
        logits, _ = model.apply({"params": trained, **frozen}, images, train=False)
        return logits.astype(jnp.float32)

    return logits_fn


def make_train_step(network: Network, optimizer: optax.GradientTransformation):
    """Returns the pure function `train_step(state, batch, key) -> (state, metrics)`.

    state: TrainState of one network; batch: Batch; key: the step's own key.
    metrics: {"loss": mean over the real examples, "logits": float32 [batch classes]}, before the
    update, in training mode.
    """

    logits_fn = make_logits_fn(network)
    model = adapted(network.model)
    adversarial = network.adversarial

    def forward(trained, frozen, images, targets, mask, key):
        input_key = tagged(key, "input regularizers")
        rngs = {use: tagged(key, use) for use in ("dropout", "noise")}
        rngs["params"] = tagged(key, "other randomness")  # of an own network, by any name
        images = standardize(network, images)
        images = apply_input_regularizers(input_key, images, network.regularizers)
        if network.compute_dtype != jnp.float32:
            images = images.astype(network.compute_dtype)
            trained = jax.tree.map(lambda leaf: leaf.astype(network.compute_dtype), trained)
        logits, changed = model.apply(
            {"params": trained, **frozen}, images, train=True, rngs=rngs, mask=mask
        )
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        losses = example_losses(logits, targets, network.label_smoothing)
        if mask is None:
            return jnp.mean(losses), (changed, logits)
        return jnp.sum(losses, where=mask) / jnp.sum(mask), (changed, logits)

    def mixed_forward(trained: Any, frozen: Any, batch: Batch, key: jax.Array):
        # The clean pass has the key of a step without adversarial training, and alone updates
        # the running statistics.
        images, targets = training_images(network, batch, tagged(key, "augmentation"))
        loss, found = forward(trained, frozen, images, targets, batch.mask, key)
        if is_off(adversarial.weight):
            return loss, found
        search_key, pass_key = tagged(key, "adversarial search"), tagged(key, "adversarial pass")
        samples = lass_samples(
            search_key, logits_fn, {"params": trained, **frozen}, images,
            adversarial.radius, adversarial.num_steps,
        )  # fmt: skip
        sample_loss, _ = forward(trained, frozen, samples, targets, batch.mask, pass_key)
        return (1 - adversarial.weight) * loss + adversarial.weight * sample_loss, found

    def train_step(state: TrainState, batch: Batch, key: jax.Array):
        trained = state.params["params"]
        frozen = {k: v for k, v in state.params.items() if k != "params"}
        (loss, (changed, logits)), grads = jax.value_and_grad(mixed_forward, has_aux=True)(
            trained, frozen, batch, key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = {"params": optax.apply_updates(trained, updates), **changed}
        return TrainState(params, opt_state), {"loss": loss, "logits": logits}

    return train_step


def training_images(network: Network, batch: Batch, key: jax.Array) -> tuple[jax.Array, Targets]:
    """Returns a batch as the network is trained on it: augmented, float32 in [0, 1].

    Args:
      network: with the augmentation; where all of it is off, these are the plain images.
      batch: as stored.
      key: of this step, for this use.
    """
    images, chosen = unit_pixels(batch.images), network.augmentation
    image_key, mixup_key = tagged(key, "augmented images"), tagged(key, "mixup")
    images = augment(image_key, images, chosen.crop, chosen.flip, chosen.cutout, fill=network.mean)
    if is_off(chosen.mixup):
        return images, Targets(batch.labels)
    mixed = mixup(mixup_key, images, batch.labels, batch.mask, chosen.mixup)
    return mixed.images, Targets(batch.labels, mixed.other_labels, mixed.share)


def example_losses(logits: jax.Array, targets: Targets, label_smoothing: Any = 0.0) -> jax.Array:
    """Returns the cross-entropy of every example with its target distribution.

    Args:
      logits: float32 [batch classes].
      targets: labels, mixed or not.
      label_smoothing: share of the target spread evenly over the classes.

    Returns:
      float32 [batch], in nats.

    Example:
      >>> losses = example_losses(jnp.zeros((1, 4)), Targets(jnp.array([2])), label_smoothing=0.1)
      >>> losses.round(4)
      Array([1.3863], dtype=float32)
    """
    if targets.other_labels is None and is_off(label_smoothing):
        return jax.vmap(softmax_cross_entropy)(logits, targets.labels)
    num_classes = logits.shape[-1]
    wanted = jax.nn.one_hot(targets.labels, num_classes)
    if targets.other_labels is not None:
        other = jax.nn.one_hot(targets.other_labels, num_classes)
        wanted = targets.share * wanted + (1 - targets.share) * other
    wanted = optax.smooth_labels(wanted, label_smoothing)
    return optax.softmax_cross_entropy(logits, wanted)


def step_flops(
    network: Network,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    batch_size: int,
) -> float:
    """Returns the FLOPs of one step of one network, as `memjax.runtime.flops.count_flops` does.

    Convolutions count as direct ones, however they are computed on this machine.

    Args:
      network: as trained.
      optimizer: likewise.
      image_shape: (height, width, channels).
      batch_size: examples of a step.
    """
    network = for_inference(network)
    state = jax.eval_shape(lambda: init_state(0, network.model, optimizer, image_shape))
    batch = jax.eval_shape(
        lambda: Batch(jnp.zeros((batch_size, *image_shape)), jnp.zeros(batch_size, jnp.int32))
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return count_flops(make_train_step(network, optimizer), state, batch, key)
