"""Per-example quantities: pure functions of (logits_fn, params, images, labels)."""
