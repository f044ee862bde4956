"""A network of one's own in flax linen.

python -m memjax.main --config=configs/digits_real.py:quick --workdir=runs/linen \
  --config.model.name=examples/linen_model.py:Residual --config.model.depth=3
python -m memjax.analyze --workdir=runs/linen --passes=gradients --steps=last
"""

import jax
from flax import linen as nn

from memjax.models import masked_batch_norm


class Residual(nn.Module):
    """Residual blocks of one hidden layer each, with BatchNorm and dropout.

    Attributes:
        num_classes: given by memjax.
        width: units of every layer.
        depth: blocks.
        dropout_rate: share of units that training sets to zero.
    """

    num_classes: int
    width: int = 64
    depth: int = 2
    dropout_rate: float = 0.1

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Returns logits [n classes] of images [n height width channels].

        `mask` is False for the rows that fill up the last batch of an epoch: BatchNorm must leave
        them out.
        """
        x = nn.Dense(self.width)(images.reshape(images.shape[0], -1))
        for _ in range(self.depth):
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
            hidden = nn.relu(nn.Dense(self.width)(masked_batch_norm(norm, x, mask)))
            x = x + nn.Dropout(self.dropout_rate, deterministic=not train)(hidden)
        return nn.Dense(self.num_classes)(x)
