"""memjax: the laboratory for memorization in deep networks."""

from typing import Any

from memjax.version import __version__

__all__ = ["__version__", "audit_labels", "citation", "load_run"]


def __getattr__(name: str) -> Any:
    # `import memjax` stays quick: JAX and the rest are imported with the first run that is opened.
    if name == "load_run":
        from memjax.loading import load_run

        return load_run
    if name == "audit_labels":
        from memjax.auditing.arrays import audit_labels

        return audit_labels
    if name == "citation":
        from memjax.references import citation

        return citation
    raise AttributeError(f"module 'memjax' has no attribute {name!r}")
