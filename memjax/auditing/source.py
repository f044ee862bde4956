"""The data of an audit: every example of a source, and its features as they are stored."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

import memjax.config as configuration
from memjax.config import resolve
from memjax.data.checks import Reading
from memjax.data.dataset import Dataset, Split
from memjax.data.module_source import load_module
from memjax.data.sources import LOADERS, load_dataset


def load_source(section: Mapping[str, Any]) -> tuple[Dataset, Dataset]:
    """Returns the data of an audit, and the same with features as the source has them.

    Every example is in training; the validation split is the source's own, and empty where it has
    none. Features are standardised, each by its own moments, unless `standardize` says otherwise.

    Args:
      section: fields of config.dataset.

    Raises:
      InputError: if the data are not there or not sound.
    """
    config = resolve({"dataset": {**section, "num_validation": 0}}).dataset
    whole = _whole(config)
    has_features = whole.train.images.ndim == 2
    if has_features and "standardize" not in section:
        config = dataclasses.replace(config, standardize="feature")
    num_validation = -1 if len(whole.validation) else 0
    if not has_features:
        del whole  # pictures are stored as they are loaded, and large
    dataset = load_dataset(dataclasses.replace(config, num_validation=num_validation))
    return dataset, _as_stored(dataset, whole) if has_features else dataset


def _whole(config: configuration.Dataset) -> Dataset:
    """Returns all that a source has, nothing drawn, features of any scale as they are stored."""
    config = dataclasses.replace(config, standardize="feature")  # nothing else to pictures
    if ":" in config.source:
        reading = Reading("", config.scale, config.layout, config.standardize)
        return load_module(config.source, reading)
    return LOADERS[config.source](config)


def _as_stored(dataset: Dataset, whole: Dataset) -> Dataset:
    def stored(split: Split, source: Split) -> Split:
        places = pd.Index(source.index).get_indexer(pd.Index(split.index))
        return dataclasses.replace(split, images=source.images[places])

    return dataclasses.replace(
        dataset,
        train=stored(dataset.train, whole.train),
        validation=stored(dataset.validation, whole.validation),
        feature_moments=None,
    )
