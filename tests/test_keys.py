"""No two uses of randomness have the same key, however seeds coincide."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from memjax.data.corruption import corrupted_positions, gaussian_image, randomize_labels
from memjax.keys import USES, tag, tagged
from memjax.training.state import member_keys, member_subset

SEEDS = st.integers(0, 2**31 - 1)
MANY = 32  # steps, epochs, examples


def derived_keys(seed: int) -> dict[str, jax.Array]:
    """All keys that memjax makes of one seed, wherever the seed stands, each use [n]."""

    def each(key):
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(MANY))

    root = jax.random.key(seed)
    members = member_keys(seed)
    analysis = tagged(root, "analysis")
    steps = each(members.noise)
    found = {
        "init": members.init[None],
        "subset": members.subset[None],
        "epochs": each(members.order),
        "corrupted examples": tagged(root, "corrupted examples")[None],
        "eigenvalue": each(tagged(analysis, "eigenvalue")),
        "trace": each(tagged(analysis, "trace")),
        "difficulty": tagged(analysis, "difficulty")[None],
    }
    for use in ("gaussian inputs", "labels", "pixels"):
        found[use] = each(tagged(root, use))
    for use in ("lass", "pgd"):
        found[use] = each(tagged(tagged(analysis, "critical"), use))
    found["corners"] = each(tagged(analysis, "critical"))
    for name, of_step in (
        ("", steps),
        ("adversarial ", jax.vmap(lambda key: tagged(key, "adversarial pass"))(steps)),
    ):
        inputs = jax.vmap(lambda key: tagged(key, "input regularizers"))(of_step)
        for use in ("input dropout", "input noise"):
            found[name + use] = jax.vmap(lambda key, use=use: tagged(key, use))(inputs)
        for use in ("dropout", "noise"):
            found[name + use] = jax.vmap(lambda key, use=use: tagged(key, use))(of_step)
    search = jax.vmap(lambda key: tagged(key, "adversarial search"))(steps)
    found["search"] = jax.vmap(each)(search).reshape(-1)
    return found


@given(SEEDS)
def test_no_two_uses_of_one_seed_have_one_key(seed):
    owners = collections.defaultdict(set)
    total = 0
    for use, keys in derived_keys(seed).items():
        for data in np.asarray(jax.random.key_data(keys)):
            owners[data.tobytes()].add(use)
            total += 1
    shared = [uses for uses in owners.values() if len(uses) > 1]
    assert not shared
    assert len(owners) == total  # nor two numbers of one use


def test_tags_differ_and_a_use_must_be_listed():
    assert len({tag(use) for use in USES}) == len(USES)
    with pytest.raises(ValueError, match="USES"):
        tag("somehting")


@given(SEEDS)
def test_with_one_seed_order_noise_and_labels_are_independent(seed):
    key, n = jax.random.key(seed), 4096
    order = jax.random.permutation(member_keys(seed).order, n)
    draws = {
        "order": order,
        "corrupted": jnp.argsort(corrupted_positions(key, n, 1.0)),
        "noise": gaussian_image(key, 0, (n,)),
        "weights": jax.random.normal(member_keys(seed).init, (n,)),
        "labels": randomize_labels(key, jnp.zeros(n, jnp.int32), 1.0, n)[0],
        "subset": jnp.isin(jnp.arange(n), member_subset(seed, n, n // 2)),
    }
    for (one, a), (other, b) in itertools.combinations(draws.items(), 2):
        correlation = np.corrcoef(np.asarray(a, float), np.asarray(b, float))[0, 1]
        assert abs(correlation) < 6 / np.sqrt(n), (one, other)
