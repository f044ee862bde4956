"""What is said of the data before a run starts."""

import numpy as np

from memjax.config import Corruption, Dataset
from memjax.data.describe import derived_data, describe_data
from memjax.data.examples import corrupt_examples
from memjax.data.sources import load_dataset


def lines(dataset):
    return describe_data(dataset, corrupt_examples(Corruption(), dataset))


def test_shape_type_range_and_classes_stand_in_one_line(tmp_path):
    images = np.random.default_rng(0).integers(5, 200, (30, 6, 4, 3), np.uint8)
    images[0, 0, 0] = [5, 199, 5]
    labels = np.array(["cat"] * 20 + ["dog"] * 10)
    true = np.where(np.arange(30) % 10 == 0, "dog", labels)
    np.savez(tmp_path / "a.npz", images=images, labels=labels, true_labels=true)
    dataset = load_dataset(Dataset(source="npz", path=str(tmp_path / "a.npz"), num_validation=0))
    first, arrays = lines(dataset)
    assert first == (
        "data: 6 x 4 pixels, 3 channels, uint8 in [5, 199] | classes of 10 (dog) to 20 (cat) "
        "examples | 2 labels (6.7%) are known to be wrong"
    )
    assert arrays.startswith("data: arrays read: images uint8 [30, 6, 4, 3], labels")
    assert derived_data(dataset) == {"class_names": ["cat", "dog"]}


def test_features_are_said_to_be_features_and_their_moments_kept(tmp_path):
    features = np.random.default_rng(0).normal(50, 9, (20, 7))
    np.savez(tmp_path / "a.npz", features=features, labels=np.arange(20) % 2)
    config = Dataset(
        source="npz", path=str(tmp_path / "a.npz"), num_validation=0, standardize="feature"
    )
    dataset = load_dataset(config)
    assert lines(dataset)[0].startswith("data: 7 features, float32 in [")
    assert "standardised | classes of 10 examples each" in lines(dataset)[0]
    np.testing.assert_allclose(
        derived_data(dataset)["feature_std"], features.std(axis=0), rtol=1e-5
    )


def test_a_class_that_removal_takes_away_is_warned_of():
    dataset = load_dataset(Dataset(num_train=10))
    examples = corrupt_examples(Corruption(kind="removed", fraction=0.5), dataset)
    assert describe_data(dataset, examples)[-1] == "data: warning: 5 classes have no example left"
