"""Networks, and the registry that finds them by name."""

from memjax.models.masking import masked_batch_norm

__all__ = ["masked_batch_norm"]
