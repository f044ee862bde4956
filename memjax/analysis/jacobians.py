"""Derivatives of single examples' logits by inputs and by parameters, and what is read off them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from memjax.analysis._ghost.norms import elements_per_example, gradient_norm
from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis._ghost.products import (
    LeafGradient,
    gradient_elements,
    inner_products,
    leaf_gradients,
)
from memjax.analysis._ghost.trace import trace_example
from memjax.analysis._jaxprs import inlined_jaxpr, num_values
from memjax.analysis._precision import widened, widened_norm
from memjax.analysis.inputs import LogitsFn, as_array, check_model
from memjax.analysis.microbatch import (
    check_microbatch_size,
    check_size,
    examples_and_functions,
    over_microbatches,
)
from memjax.errors import InputError


def input_jacobians(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    microbatch_size: int | None = None,
) -> jax.Array:
    """Returns the derivative of every example's logits with respect to its image.

    One backward pass for each class, or one forward pass for each pixel where there are fewer
    pixels than classes; all passes of a microbatch at once.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, any JAX model in
        inference mode. Compiled once for each function object: pass the same one again.
      params: pytree of arrays.
      images: [n ...], float.
      microbatch_size: examples computed at once; None: as many as keep the memory small. Changes
        nothing but rounding.

    Returns:
      [n classes ...] in the dtype of `images`: logits for each unit of `images`.

    Raises:
      InputError: images that are not float, are empty, or are sharded over devices; logits that mix
        the examples (BatchNorm in training mode).

    Example:
      >>> def logits_fn(params, images):
      ...     return images**2 @ params
      >>> input_jacobians(logits_fn, jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.ones((1, 2)))
      Array([[[2., 0.],
              [0., 4.]]], dtype=float32)
    """
    params, images, _ = check_model(logits_fn, params, images, by_images=True)
    return _input_jacobians(logits_fn, params, images, check_microbatch_size(microbatch_size))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _input_jacobians(logits_fn, params, images, microbatch_size):
    one_image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    jaxpr = inlined_jaxpr(logits_fn, params, one_image)
    leaves = jax.tree.leaves(params)
    num_classes, num_pixels = jaxpr.out_avals[0].shape[1], math.prod(one_image.shape)

    def logits(image: jax.Array) -> jax.Array:
        return core.jaxpr_as_fun(jaxpr)(*leaves, image[None])[0][0]

    one_way = min(num_classes, num_pixels)
    size, at_once = examples_and_functions(num_values(jaxpr), one_way, microbatch_size)

    def by_pixels(image: jax.Array) -> jax.Array:
        _, push = jax.linearize(logits, image)
        basis = jnp.eye(num_pixels, dtype=image.dtype).reshape(num_pixels, *image.shape)
        columns = over_microbatches(jax.vmap(push), basis, microbatch_size=at_once)
        return columns.T.reshape(num_classes, *image.shape).astype(image.dtype)

    def by_classes(image: jax.Array) -> jax.Array:
        values, pull_back = jax.vjp(logits, image)
        basis = jnp.eye(num_classes, dtype=values.dtype)
        return over_microbatches(
            jax.vmap(lambda row: pull_back(row)[0]), basis, microbatch_size=at_once
        )

    jacobian = by_pixels if num_pixels < num_classes else by_classes
    return over_microbatches(jax.vmap(jacobian), images, microbatch_size=size)


def jacobian_norms(jacobians: jax.Array) -> jax.Array:
    """Returns the Frobenius norm of every example's Jacobian.

    Args:
      jacobians: [n classes ...], from `input_jacobians`.

    Returns:
      [n], float32 (float64 for float64).

    Example:
      >>> jacobian_norms(jnp.array([[[3.0, 0.0], [0.0, 4.0]]]))
      Array([5.], dtype=float32)
    """
    return jax.vmap(widened_norm)(jnp.asarray(jacobians))


def jacobian_singular_values(jacobians: jax.Array) -> jax.Array:
    """Returns the singular values of every example's Jacobian, largest first.

    Args:
      jacobians: [n classes ...], from `input_jacobians`; pixels are flattened.

    Returns:
      [n min(classes, pixels)]. The first is the spectral norm: the most that the logits (as a
      vector) move for a small step of length 1.

    Example:
      >>> jacobian_singular_values(jnp.array([[[3.0, 0.0], [0.0, 4.0]]]))
      Array([[4., 3.]], dtype=float32)
    """
    return jnp.linalg.svd(_flat(jacobians), compute_uv=False)


def extended_data_jacobian(jacobians: jax.Array, class_index: int) -> jax.Array:
    """Returns one class's input gradients at all examples, stacked as the rows of one matrix.

    Wang et al. 2016, "Analysis of deep neural networks with extended data Jacobian matrix". A
    network that is one linear map near all its data has rank 1 here.

    Args:
      jacobians: [n classes ...], from `input_jacobians`.
      class_index: in [0, classes).

    Returns:
      [n pixels].

    Raises:
      InputError: there is no such class.

    Example:
      >>> extended_data_jacobian(jnp.arange(8.0).reshape(2, 2, 2), 1)
      Array([[2., 3.],
             [6., 7.]], dtype=float32)
    """
    jacobians = jnp.asarray(jacobians)
    class_index = check_size("class_index", class_index, at_least=0)
    if not class_index < jacobians.shape[1]:
        raise InputError(f"class_index: {class_index} is not in [0, {jacobians.shape[1]})")
    return jacobians[:, class_index].reshape(len(jacobians), -1)


def extended_data_jacobian_spectra(jacobians: jax.Array) -> jax.Array:
    """Returns the singular values of every class's extended data Jacobian, largest first.

    Args:
      jacobians: [n classes ...], from `input_jacobians`.

    Returns:
      [classes min(n, pixels)].

    Example:
      >>> extended_data_jacobian_spectra(jnp.ones((2, 1, 2))).round(3)
      Array([[2., 0.]], dtype=float32)
    """
    return jnp.linalg.svd(_flat(jacobians).swapaxes(0, 1), compute_uv=False)


def _flat(jacobians: jax.Array) -> jax.Array:
    """Returns [n classes pixels] in at least float32: half precision has no singular values."""
    jacobians = widened(jnp.asarray(jacobians))
    return jacobians.reshape(*jacobians.shape[:2], -1)


def parameter_jacobian_norms(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    microbatch_size: int | None = None,
) -> jax.Array:
    """Returns the norm of the derivative of every logit with respect to all parameters.

    No [n classes n_params] is formed: the norms come from activations and cotangents, as in
    `memjax.analysis.gradients.gradient_norms`, and activations serve all classes.

    Args:
      logits_fn: as for `input_jacobians`.
      params: pytree of arrays; integer leaves, and what is behind `stop_gradient`, count nothing.
      images: [n ...].
      microbatch_size: as for `input_jacobians`.

    Returns:
      [n classes], float32 (float64 for a float64 model).

    Raises:
      InputError: images that are empty or sharded over devices; logits that mix the examples;
        `params` without a derivative.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> parameter_jacobian_norms(logits_fn, jnp.zeros((2, 3)), jnp.array([[3.0, 4.0]]))
      Array([[5., 5., 5.]], dtype=float32)
    """
    params, images, _ = check_model(logits_fn, params, images, by_params=True)
    size = check_microbatch_size(microbatch_size)
    return _parameter_jacobian_norms(logits_fn, params, images, size)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _parameter_jacobian_norms(logits_fn, params, images, microbatch_size):
    leaves = jax.tree.leaves(params)
    uses = find_param_uses(logits_fn, params, images)
    num_classes = uses.jaxpr.out_avals[0].shape[1]

    def norms(image: jax.Array) -> jax.Array:
        traced = trace_example(uses, leaves, image)
        by_logit = jax.vmap(functools.partial(gradient_norm, uses, traced))
        classes = jnp.eye(num_classes, dtype=traced.logits.dtype)
        return over_microbatches(by_logit, classes, microbatch_size=at_once)

    elements = elements_per_example(uses, leaves)
    size, at_once = examples_and_functions(elements, num_classes, microbatch_size)
    return over_microbatches(jax.vmap(norms), images, microbatch_size=size)


def empirical_ntk(
    logits_fn: LogitsFn,
    params: Any,
    images_a: jax.Array,
    images_b: jax.Array,
    block_size: int | None = None,
) -> jax.Array:
    """Returns the empirical neural tangent kernel: inner products of parameter Jacobians.

    kernel[i, j, c, d] is the inner product of d logits[c](images_a[i]) / d params and
    d logits[d](images_b[j]) / d params (Jacot et al. 2018), computed block by block. A dense layer
    gives <a_i, a_j> <d_ic, d_jd> without its gradients being formed; only gradients of other
    layers are, for one block of each side at a time.

    Args:
      logits_fn: as for `input_jacobians`.
      params: pytree of arrays; integer leaves, and what is behind `stop_gradient`, count nothing.
      images_a: [n_a ...].
      images_b: [n_b ...]; their Jacobians are computed again for every block of `images_a`.
      block_size: examples of each side at once; None: as many as keep the memory small. Changes
        nothing but rounding.

    Returns:
      [n_a n_b classes classes].

    Raises:
      InputError: images that are empty, sharded over devices, or of different shapes on the two
        sides; logits that mix the examples.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> images = jnp.array([[3.0, 4.0]])
      >>> empirical_ntk(logits_fn, jnp.zeros((2, 2)), images, images)
      Array([[[[25.,  0.],
               [ 0., 25.]]]], dtype=float32)
    """
    params, images_a, _ = check_model(logits_fn, params, images_a, by_params=True)
    images_b = as_array("images_b", images_b)
    if images_a.shape[1:] != images_b.shape[1:] or images_a.dtype != images_b.dtype:
        raise InputError(
            "images_b: must have the shape and dtype of images_a without n, "
            f"{images_a.dtype}{images_a.shape[1:]}, not {images_b.dtype}{images_b.shape[1:]}"
        )
    params, images_b, _ = check_model(logits_fn, params, images_b, by_params=True)
    size = None if block_size is None else check_size("block_size", block_size)
    return _empirical_ntk(logits_fn, params, images_a, images_b, size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _empirical_ntk(logits_fn, params, images_a, images_b, block_size):
    leaves = jax.tree.leaves(params)
    uses = find_param_uses(logits_fn, params, images_a)
    num_classes = uses.jaxpr.out_avals[0].shape[1]
    elements = 2 * gradient_elements(uses, leaves)
    size, at_once = examples_and_functions(elements, num_classes, block_size)
    classes = jnp.eye(num_classes, dtype=uses.jaxpr.out_avals[0].dtype)

    def over_classes(fn: Callable[[jax.Array], jax.Array], axis: int) -> jax.Array:
        # fn: [some classes] -> an array with these classes at an axis.
        found = over_microbatches(
            lambda some: jnp.moveaxis(fn(some), axis, 0), classes, microbatch_size=at_once
        )
        return jnp.moveaxis(found, 0, axis)

    def jacobians(images: jax.Array, cotangents: jax.Array) -> list[LeafGradient]:
        def of_one(image: jax.Array) -> list[LeafGradient]:
            return leaf_gradients(uses, trace_example(uses, leaves, image), cotangents)

        return jax.vmap(of_one)(images)

    def rows(block_a: jax.Array) -> jax.Array:
        def of_some_classes(some: jax.Array) -> jax.Array:
            jacobians_a = jacobians(block_a, some)

            def columns(block_b: jax.Array) -> jax.Array:
                found = over_classes(
                    lambda others: inner_products(jacobians_a, jacobians(block_b, others)), 3
                )
                return found.swapaxes(0, 1)

            return over_microbatches(columns, images_b, microbatch_size=size).swapaxes(0, 1)

        return over_classes(of_some_classes, 2)

    return over_microbatches(rows, images_a, microbatch_size=size)
