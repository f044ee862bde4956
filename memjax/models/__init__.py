"""Networks, and the registry that finds them by name: ours, and a user's own.

`mlp`, `alexnet` (the paper's CNN), `resnet` (and `wide_resnet`), `vit`; convolutions that are
quick on a CPU; regularisers of activations; adapters that make one interface, `Model`, of flax
linen, flax nnx, equinox and (init, apply) pairs. Imports config, keys, errors and
`data.neighbours`; knows nothing of training.
"""

from memjax.models.masking import masked_batch_norm

__all__ = ["masked_batch_norm"]
