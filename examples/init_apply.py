"""A network of one's own as two plain functions.

python -m memjax.main --config=configs/digits_real.py:quick --workdir=runs/init_apply \
  --config.model.name=examples/init_apply.py:attention --config.model.width=32
python -m memjax.analyze --workdir=runs/init_apply --passes=gradients --steps=last
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def attention(
    num_classes: int, image_shape: tuple[int, ...], width: int = 32
) -> tuple[Callable, Callable]:
    """Returns (init, apply) of one layer of attention over the rows of an image.

    num_classes and image_shape (height, width, channels) are given by memjax.
    """
    row_size = image_shape[1] * image_shape[2]
    shapes = {
        "embed": (row_size, width),
        "position": (image_shape[0], width),
        "query": (width, width),
        "key": (width, width),
        "value": (width, width),
        "head": (width, num_classes),
    }

    def init(key: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {
            name: jax.random.normal(keys[name], shape) / jnp.sqrt(shape[0])
            for name, shape in shapes.items()
        }

    def apply(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        rows = images.reshape(*images.shape[:2], -1)
        x = rows @ params["embed"] + params["position"][None]
        query, key, value = (x @ params[name] for name in ("query", "key", "value"))
        weights = jax.nn.softmax(query @ key.swapaxes(1, 2) / jnp.sqrt(width))
        return (x + weights @ value).mean(1) @ params["head"]

    return init, apply
