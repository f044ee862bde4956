"""What `memjax.analysis` makes public, and what importing it costs."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from memjax import analysis


def test_every_public_name_is_a_documented_function_of_its_module():
    for name in analysis.__all__:
        function = getattr(analysis, name)
        assert function.__name__ == name
        assert function.__doc__
    assert dir(analysis) == analysis.__all__


def test_type_checkers_see_the_same_names():
    tree = ast.parse(pathlib.Path(analysis.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module.rsplit(".", 1)[-1], alias.name) for node in block.body for alias in node.names
    }
    assert seen == {(module, name) for name, module in analysis._MODULE_OF.items()}


def test_modules_and_unknown_names_are_what_they_were():
    assert importlib.import_module("memjax.analysis.critical").lass is analysis.lass
    from memjax.analysis import statistics

    assert statistics.gini is analysis.gini
    with pytest.raises(AttributeError, match="no attribute 'ginni'"):
        _ = analysis.ginni


def test_importing_the_package_imports_no_jax():
    code = "import sys, memjax.analysis; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
