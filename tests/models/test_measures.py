"""What is measured of an example goes through every network, and equals a plain loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.analysis.gradients import gradient_norms
from memjax.analysis.jacobians import input_jacobians, parameter_jacobian_norms
from memjax.models.registry import build_model
from memjax.training.step import Network, for_inference, make_logits_fn

pytestmark = pytest.mark.campaign

NETWORKS = {
    "resnet, BatchNorm": ("resnet", {"depth": 10, "width_factor": 1 / 32}),
    "resnet, GroupNorm": ("resnet", {"depth": 10, "width_factor": 1 / 32, "norm": "group"}),
    "wide_resnet": ("wide_resnet", {"depth": 10, "width_factor": 0.25, "norm": "group"}),
    "vit": ("vit", {"patch_size": 4, "width": 8, "depth": 2, "num_heads": 2}),
}
IMAGES = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
LABELS = jnp.array([2, 0, 1])


@pytest.fixture(scope="module", params=NETWORKS)
def measured(request, random_variables):
    name, fields = NETWORKS[request.param]
    network = for_inference(Network(build_model(name, 3, **fields), 0.5, 0.5))
    variables = random_variables(network.model, IMAGES)
    variables["params"] = jax.tree.map(lambda leaf: leaf - 0.55, variables["params"])
    return make_logits_fn(network), variables


def test_gradient_norms_equal_a_loop_over_single_examples(measured):
    logits_fn, variables = measured

    @jax.jit
    @jax.grad
    def gradient(variables, image, label):
        logits = logits_fn(variables, image[None])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    expected = [
        float(optax.tree.norm(gradient(variables, image, label)))
        for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    found = jax.jit(functools.partial(gradient_norms, logits_fn))(variables, IMAGES, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_jacobians_equal_a_loop_over_single_examples(measured):
    logits_fn, variables = measured

    @jax.jit
    def jacobians(variables, image):
        def logits(variables, image):
            return logits_fn(variables, image[None])[0]

        return jax.jacrev(logits, argnums=(0, 1))(variables, image)

    by_inputs = input_jacobians(logits_fn, variables, IMAGES)
    norms = parameter_jacobian_norms(logits_fn, variables, IMAGES)
    for index, image in enumerate(IMAGES):
        by_params, by_image = jacobians(variables, image)
        np.testing.assert_allclose(by_inputs[index], by_image, rtol=1e-3, atol=1e-4)
        squares = sum(
            np.sum(np.square(leaf).reshape(3, -1), axis=1) for leaf in jax.tree.leaves(by_params)
        )
        np.testing.assert_allclose(norms[index], np.sqrt(squares), rtol=1e-3)
