"""What mkdocstrings reads of memjax's docstrings: a section `Example` is one of `Examples`."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section, so that its doctest is shown as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", value, flags=re.M)
