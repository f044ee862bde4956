"""A network of one's own in Equinox, written for one image (pip install 'memjax[equinox]').

python -m memjax.main --config=configs/digits_real.py:quick --workdir=runs/equinox \
  --config.model.name=examples/equinox_model.py:Network --config.train.batch_size=50 \
  --config.dataset.num_train=1400
python -m memjax.analyze --workdir=runs/equinox --passes=gradients --steps=last

Equinox's BatchNorm cannot leave padding out, so that the batch size must divide the examples.
"""

import math

import equinox as eqx
import jax


class Network(eqx.Module):
    """A hidden layer with BatchNorm and dropout."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, ...],
        key: jax.Array,
        width: int = 64,
        dropout_rate: float = 0.1,
    ):
        """num_classes, image_shape (height, width, channels) and key are given by memjax."""
        first_key, last_key = jax.random.split(key)
        self.first = eqx.nn.Linear(math.prod(image_shape), width, key=first_key)
        self.norm = eqx.nn.BatchNorm(width, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(dropout_rate)
        self.last = eqx.nn.Linear(width, num_classes, key=last_key)

    def __call__(
        self, image: jax.Array, state: eqx.nn.State, key: jax.Array | None = None
    ) -> tuple[jax.Array, eqx.nn.State]:
        """Returns logits [classes] of one image [height width channels], and the new state.

        memjax batches it (vmap) and sets the mode (`eqx.nn.inference_mode`).
        """
        x, state = self.norm(self.first(image.ravel()), state)
        x = self.dropout(jax.nn.relu(x), key=key)
        return self.last(x), state
