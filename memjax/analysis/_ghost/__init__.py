"""Norms and inner products of per-example gradients that are never formed."""
