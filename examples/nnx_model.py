"""A network of one's own in flax nnx.

python -m memjax.main --config=configs/digits_real.py:quick --workdir=runs/nnx \
  --config.model.name=examples/nnx_model.py:ConvNet --config.model.width=16
python -m memjax.analyze --workdir=runs/nnx --passes=gradients --steps=last
"""

import jax
from flax import nnx

from memjax.models import masked_batch_norm


class ConvNet(nnx.Module):
    """Two convolutions with BatchNorm, the mean over all places, dropout, and a linear layer."""

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, ...],
        rngs: nnx.Rngs,
        width: int = 16,
        dropout_rate: float = 0.1,
    ):
        """num_classes, image_shape (height, width, channels) and rngs are given by memjax."""
        self.first = nnx.Conv(image_shape[-1], width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(width, width, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(dropout_rate, rngs=rngs)
        self.last = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns logits [n classes]; memjax calls train() or eval() before.

        `mask` is False for the rows that fill up the last batch of an epoch: BatchNorm must leave
        them out.
        """
        x = jax.nn.relu(masked_batch_norm(self.norm, self.first(images), mask))
        x = jax.nn.relu(self.second(x)).mean((1, 2))
        return self.last(self.dropout(x))
