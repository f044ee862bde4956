"""First-layer filters as pictures, and numbers that tell a learned filter from noise.

Source: Arpit et al. 2017, figure 2: filters learned on random labels still look useful.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis._precision import widened
from memjax.analysis.inputs import LogitsFn
from memjax.errors import InputError


class FilterQuality(NamedTuple):
    """Scale-free numbers of each filter; nan for a filter that is zero everywhere.

    Attributes:
      roughness: [filters], mean absolute difference of neighbouring weights over the root mean
        square weight; 0 for a constant filter, about 1.13 (2 / sqrt(pi)) for white noise.
      low_frequency_share: [filters] in [0, 1], share of the power of the 2-D Fourier transform at
        up to `cutoff` cycles per pixel, the mean included; high for smooth blobs.
      spectral_entropy: [filters] in [0, 1], entropy of the power over frequencies, over its
        maximum; low for gratings and edges, 1 for a single lit pixel, near 0.9 for white noise.
      kurtosis: [filters], excess kurtosis of the weights; about 0 for Gaussian noise, high for a
        few strong strokes on a quiet ground; nan for a constant filter.
    """

    roughness: jax.Array
    low_frequency_share: jax.Array
    spectral_entropy: jax.Array
    kurtosis: jax.Array


def first_layer_filters(
    params: Any, image_shape: tuple[int, ...], *, layer: str | None = None
) -> jax.Array:
    """Returns the weights of the first layer, one picture per unit or output channel.

    Looks for a convolution kernel [height width channels filters] whose channels are those of the
    images, and where there is none for a dense kernel [pixels units] over all height * width *
    channels pixels: the layouts of flax and haiku. Leaves named 'weight' have that of equinox,
    [filters channels height width] and [units pixels]. Of several fitting leaves that are named
    alike but for their numbers (Dense_0, Dense_1) the one with the lowest numbers is taken.

    Args:
      params: a pytree of arrays.
      image_shape: (height, width, channels), or (height, width) for grey images.
      layer: the path of the kernel within `params`, such as 'params/Dense_0/kernel', to choose it
        by hand.

    Returns:
      [filters height width channels]; height and width are those of the kernel, or of the images
      for a dense layer.

    Raises:
      InputError: no leaf fits, several different ones do, or `layer` is none of the fitting ones.

    Example:
      >>> params = {"Conv_0": {"kernel": jnp.ones((5, 5, 3, 16)), "bias": jnp.ones(16)}}
      >>> first_layer_filters(params, (32, 32, 3)).shape
      (16, 5, 5, 3)
      >>> first_layer_filters({"Dense_0": {"kernel": jnp.ones((784, 10))}}, (28, 28)).shape
      (10, 28, 28, 1)
    """
    if len(image_shape) not in (2, 3):
        raise InputError(f"image_shape: {image_shape}, must be (height, width[, channels])")
    height, width, channels = (*image_shape, 1)[:3]
    leaves = {
        (name := jax.tree_util.keystr(path, simple=True, separator="/")): _inputs_first(name, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    convolutions = [n for n, x in leaves.items() if x.ndim == 4 and x.shape[2] == channels]
    pixels = height * width * channels
    dense = [n for n, x in leaves.items() if x.ndim == 2 and x.shape[0] == pixels]
    if layer is not None:
        if layer not in (*convolutions, *dense):
            raise InputError(
                f"layer: {layer!r}, must be a first-layer kernel for images {image_shape}: "
                f"{', '.join((*convolutions, *dense)) or 'no leaf of params fits'}"
            )
        name = layer
    else:
        name = _first_by_number(convolutions or dense, leaves, image_shape)
    kernel = leaves[name]
    if kernel.ndim == 4:
        return jnp.moveaxis(kernel, 3, 0)
    return kernel.T.reshape(-1, height, width, channels)


def first_layer(logits_fn: LogitsFn, params: Any, images: Any) -> str | None:
    """Returns the path of the kernel that meets the images first, as the trace of the model shows.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; only their shape and dtype matter.

    Returns:
      What `first_layer_filters` takes as `layer`; None where the first layer may be one that is
      computed from several leaves (a normalised kernel).

    Raises:
      InputError: the model has no kernel.

    Example:
      >>> def logits_fn(params, images):
      ...     return jnp.tanh(images @ params["b"]) @ params["a"]
      >>> first_layer(logits_fn, {"a": jnp.ones((5, 2)), "b": jnp.ones((3, 5))}, jnp.ones((1, 3)))
      'b'
    """
    uses = find_param_uses(logits_fn, params, images)
    if uses.other:
        return None
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    places = [(k.place, leaf) for leaf, kernels in uses.kernels.items() for k in kernels]
    if not places:
        raise InputError("params: no leaf is the kernel of a layer")
    _, leaf = min(places)
    return jax.tree_util.keystr(paths[leaf], simple=True, separator="/")


@jax.jit
def filter_quality(filters: jax.Array, cutoff: jax.Array | float = 0.25) -> FilterQuality:
    """Returns roughness, low-frequency share, spectral entropy and kurtosis of every filter.

    None of them changes when a filter is multiplied by a number. Compare filters of one size only,
    with the network's own initial filters as the reference: see `rank_against_initial`.

    Args:
      filters: [filters height width channels], height or width above 1.
      cutoff: scalar, frequency in cycles per pixel up to which power counts as low; 0.5 is the
        highest along an axis.

    Returns:
      A `FilterQuality` of arrays [filters].

    Raises:
      InputError: `filters` is not [filters height width channels], or its pictures are 1 by 1.

    Example:
      >>> ramp = jnp.tile(jnp.arange(5.0).reshape(1, 5, 1, 1), (1, 1, 5, 1))
      >>> noise = jax.random.normal(jax.random.key(0), (1, 5, 5, 1))
      >>> bool((filter_quality(ramp).roughness < filter_quality(noise).roughness).all())
      True
    """
    if filters.ndim != 4 or filters.shape[1] * filters.shape[2] < 2:
        raise InputError(
            f"filters: shape {filters.shape}, must be [filters height width channels] with height "
            "or width above 1"
        )
    filters = widened(filters)
    pixels = (1, 2, 3)
    # Scaled by the largest weight first, so that no square under- or overflows.
    filters = filters / jnp.abs(filters).max(pixels, keepdims=True)
    differences = [jnp.abs(jnp.diff(filters, axis=axis)) for axis in (1, 2)]
    num_pairs = sum(d[0].size for d in differences)
    variation = (differences[0].sum(pixels) + differences[1].sum(pixels)) / num_pairs
    power = jnp.square(jnp.abs(jnp.fft.fft2(filters, axes=(1, 2)))).sum(3)
    power = power / power.sum((1, 2), keepdims=True)
    vertical = jnp.fft.fftfreq(filters.shape[1])[:, None]
    horizontal = jnp.fft.fftfreq(filters.shape[2])[None, :]
    is_low = jnp.hypot(*jnp.broadcast_arrays(vertical, horizontal)) <= cutoff
    entropy = jax.scipy.special.entr(power).sum((1, 2)) / jnp.log(power[0].size)
    centered = filters - filters.mean(pixels, keepdims=True)
    second, fourth = (centered**2).mean(pixels), (centered**4).mean(pixels)
    # A constant filter leaves only rounding errors, which have no kurtosis.
    second = jnp.where(second > (10 * jnp.finfo(second.dtype).eps) ** 2, second, jnp.nan)
    return FilterQuality(
        roughness=variation / jnp.sqrt(jnp.square(filters).mean(pixels)),
        low_frequency_share=jnp.where(is_low[None], power, 0).sum((1, 2)),
        spectral_entropy=entropy,
        kurtosis=fourth / jnp.square(second) - 3,
    )


@jax.jit
def rank_against_initial(quality: FilterQuality, initial: FilterQuality) -> FilterQuality:
    """Returns where every trained filter falls among the initial, random ones.

    Each number becomes the share of the initial filters that lie below it, ties counting half: 0.5
    on average for filters that are still noise, near 0 or 1 for what chance does not give.

    Args:
      quality: of the trained filters, from `filter_quality`.
      initial: of the same layer at step 0, or of any number of random filters of the same size.

    Returns:
      A `FilterQuality` of arrays [filters], in [0, 1]; nan where the number is nan, and everywhere
      if an initial filter's number is nan.

    Example:
      >>> trained, initial = (FilterQuality(*4 * [jnp.array(x)]) for x in ([0.5], [0.4, 0.5, 1.0]))
      >>> rank_against_initial(trained, initial).roughness
      Array([0.5], dtype=float32)
    """

    def rank(values: jax.Array, reference: jax.Array) -> jax.Array:
        reference = jnp.sort(reference)
        num_below = jnp.searchsorted(reference, values, side="left")
        num_not_above = jnp.searchsorted(reference, values, side="right")
        share = (num_below + num_not_above).astype(values.dtype) / (2 * reference.size)
        # jnp.sort puts nan last.
        return jnp.where(jnp.isnan(values) | jnp.isnan(reference[-1]), jnp.nan, share)

    return jax.tree.map(rank, quality, initial)


def _inputs_first(name: str, leaf: Any) -> jax.Array:
    """Returns a kernel with its outputs last, which equinox has first."""
    leaf = jnp.asarray(leaf)
    if name.split("/")[-1] == "weight" and leaf.ndim in (2, 4):
        return leaf.T if leaf.ndim == 2 else leaf.transpose(2, 3, 1, 0)
    return leaf


def _first_by_number(
    names: list[str], leaves: dict[str, jax.Array], image_shape: tuple[int, ...]
) -> str:
    """Picks the lowest-numbered of names that differ in their numbers only."""
    if not names:
        shapes = ", ".join(f"{name} {leaf.shape}" for name, leaf in leaves.items())
        raise InputError(
            f"params: no first-layer kernel for images {image_shape}, must hold "
            f"[height width channels filters] or [pixels units]; it holds {shapes}"
        )
    if len({re.sub(r"\d+", "#", name) for name in names}) > 1:
        raise InputError(
            f"params: {', '.join(names)} all fit images {image_shape}, choose one with layer="
        )
    return min(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
