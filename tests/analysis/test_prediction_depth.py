"""Prediction depth, against scikit-learn's neighbours at layers computed by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from memjax.analysis.prediction_depth import depth_of, layer_embeddings, nearest_classes
from memjax.errors import InputError

RNG = np.random.default_rng(0)
SIZES = (6, 8, 7, 3)
PARAMS = [
    {"kernel": jnp.asarray(RNG.normal(size=pair), jnp.float32), "bias": jnp.ones((1, pair[1])) / 3}
    for pair in itertools.pairwise(SIZES)
]
SUPPORT = jnp.asarray(RNG.normal(size=(50, 6)), jnp.float32)
LABELS = RNG.integers(0, 3, 50)
IMAGES = jnp.asarray(RNG.normal(size=(11, 6)), jnp.float32)


def layers_by_hand(images):
    """What each kernel is given, and the logits."""
    found = [2 * images - 1]
    for place, layer in enumerate(PARAMS):
        value = found[-1] @ layer["kernel"] + layer["bias"]
        found.append(jax.nn.relu(value) if place < len(PARAMS) - 1 else value)
    return found


def logits_fn(params, images):
    value = 2 * images - 1
    for layer in params[:-1]:
        value = jax.nn.relu(value @ layer["kernel"] + layer["bias"])
    return value @ params[-1]["kernel"] + params[-1]["bias"]


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_embeddings_are_what_each_kernel_is_given_and_the_logits(microbatch_size):
    found = layer_embeddings(logits_fn, PARAMS, IMAGES, microbatch_size)
    expected = layers_by_hand(IMAGES)
    assert len(found) == len(expected) == 4
    for ours, by_hand in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-6)


def test_embeddings_of_a_convolution_are_its_inputs():
    def network(params, images):
        hidden = jax.lax.conv(images[:, None], params["filters"], (1, 1), "VALID")
        return jax.nn.relu(hidden).reshape(len(images), -1) @ params["last"]

    params = {"filters": jnp.ones((2, 1, 3, 3)), "last": jnp.ones((8, 4))}
    found = layer_embeddings(network, params, jnp.ones((5, 4, 4)))
    assert [part.shape for part in found] == [(5, 16), (5, 8), (5, 4)]
    np.testing.assert_allclose(found[1], 9.0)


@pytest.mark.parametrize("count", [1, 5, 49])
def test_neighbours_vote_as_scikit_learn_has_them(count):
    found = nearest_classes(IMAGES, SUPPORT, LABELS, 3, count)
    theirs = KNeighborsClassifier(count).fit(SUPPORT, LABELS).predict(IMAGES)
    np.testing.assert_array_equal(found, theirs)


def test_no_point_is_a_neighbour_of_its_own():
    found = nearest_classes(SUPPORT, SUPPORT, LABELS, 3, 5, own_rows=np.arange(50))
    for row in (0, 17, 49):
        others = np.delete(np.arange(50), row)
        model = KNeighborsClassifier(5).fit(SUPPORT[others], LABELS[others])
        assert found[row] == model.predict(SUPPORT[row : row + 1])[0]


def test_more_neighbours_than_there_are_are_all():
    assert set(nearest_classes(IMAGES, SUPPORT, LABELS, 3, 500).tolist()) == {
        int(np.bincount(LABELS).argmax())
    }


def test_depth_is_where_the_prediction_begins_to_stand():
    rng = np.random.default_rng(1)
    neighbors, predictions = rng.integers(0, 2, (5, 40)), rng.integers(0, 2, 40)
    found = depth_of(list(jnp.asarray(neighbors)), jnp.asarray(predictions))
    for example in range(40):
        depth = 5
        while depth and neighbors[depth - 1, example] == predictions[example]:
            depth -= 1
        assert found[example] == depth


def test_a_network_without_a_kernel_is_refused():
    with pytest.raises(InputError, match="no matrix product or convolution"):
        layer_embeddings(lambda params, images: images[:, :3] * params[0], jnp.ones(1), IMAGES)


@pytest.mark.parametrize(
    ("offset", "scale", "dtype"), [(300, 0.1, np.float32), (0, 300, np.float16)]
)
def test_neighbours_are_those_of_float64_far_from_the_origin_and_in_half_precision(
    offset, scale, dtype
):
    rng = np.random.default_rng(1)
    support = (offset + scale * rng.normal(size=(60, 16))).astype(dtype)
    points = (offset + scale * rng.normal(size=(40, 16))).astype(dtype)
    labels = np.arange(60)  # as many classes as points: the nearest one itself
    found = nearest_classes(jnp.asarray(points), jnp.asarray(support), labels, 60, 1)
    differences = np.float64(points)[:, None] - np.float64(support)[None]
    np.testing.assert_array_equal(found, np.square(differences).sum(-1).argmin(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support": np.ones((50, 5))}, r"embeddings, support: shapes \(11, 6\), \(50, 5\)"),
        ({"labels": LABELS[:3]}, r"labels: must be \[50\], as many as the support"),
        ({"labels": LABELS + 1}, "labels: 3 .* is not a class in"),
        ({"num_neighbors": 0}, "num_neighbors: 0"),
        ({"support": np.ones((0, 6)), "labels": np.zeros(0, int)}, "support: 0 points"),
        ({"own_rows": np.zeros(3, int)}, r"own_rows: shape \(3,\), must be \[11\]"),
    ],
)
def test_neighbours_that_cannot_be_are_one_clear_line(change, message):
    arguments = {"embeddings": IMAGES, "support": SUPPORT, "labels": LABELS, "num_classes": 3}
    with pytest.raises(InputError, match=message):
        nearest_classes(**arguments | change)
