"""Networks, and the registry that finds them by name."""
