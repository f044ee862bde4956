"""memjax: the laboratory for memorization in deep networks."""

__version__ = "0.1.0"
