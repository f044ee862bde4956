"""Own data from beginning to end: read, trained, analysed, and told what was done."""

import json

import numpy as np
import pandas as pd
import pytest

from memjax import presets
from memjax.config import resolve
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.passes import PASSES
from memjax.passes.base import Context, Options
from memjax.passes.runner import run_pass
from memjax.training.documents import describe_setup
from memjax.training.run import run
from memjax.training.setup import prepare
from tests import command_line
from tests.data.pictures import encoded, noise, write_folder


def config_of(**dataset):
    config = presets.digits_mlp("quick")
    config.dataset.num_train = 0
    config.dataset.num_validation = -1
    config.dataset.update(dataset)
    config.model.widths = (8,)
    config.train.batch_size = 16
    config.train.num_epochs = 2
    config.checkpoint.every_epochs = 1
    config.checkpoint.powers_of_two = False
    config.run.num_devices = 1
    config.run.progress = False
    return config


def trained(config, workdir):
    """Trains a run; returns it opened, and what was said at its start."""
    setup = prepare(resolve(config))
    run(setup, workdir)
    return load_run(workdir), describe_setup(setup).splitlines()


@pytest.fixture(scope="module")
def ugly(tmp_path_factory):
    """Photos as people have them: sizes, modes, rotations and class sizes mixed, one broken."""
    root = tmp_path_factory.mktemp("data") / "pets"
    files = {"cat/broken.jpg": encoded(noise(0, 30, 30, 3), "JPEG")[:300], "dog/notes.txt": b"hm"}
    for name, count, level in (("cat", 40, 30), ("dog", 9, 120), ("newt", 2, 210)):
        for place in range(count):
            height, width = 20 + place % 7, 30 + place % 3
            pixels = np.clip(noise(place, height, width, 3) // 4 + level, 0, 255).astype(np.uint8)
            mode = "L" if place % 5 == 0 else None
            orientation = 6 if place % 4 == 1 else None
            kind = ("JPEG", "PNG", "WEBP")[place % 3]
            made = encoded(pixels, kind, mode, orientation)
            files[f"{name}/{place:02d}.{kind.lower()}"] = made
    return write_folder(root, files)


def test_a_folder_of_photos_is_trained_analysed_and_told(ugly, tmp_path):
    opened, said = trained(config_of(source="folder", path=str(ugly), image_size=12), tmp_path)
    assert said[1].startswith("data: 12 x 12 pixels, 3 channels, uint8 in [")
    assert "classes of 2 (newt) to 32 (cat) examples" in said[1]
    assert any("1 of 52 images are left out" in line and "cat/broken.jpg" in line for line in said)
    assert any("grey, read as RGB" in line for line in said)
    assert any("EXIF" in line for line in said)
    assert any("resized to 12 x 12" in line for line in said)
    assert any("ignored: dog/notes.txt" in line for line in said)
    examples = opened.examples
    assert set(examples.label_name) == {"cat", "dog", "newt"}
    by_name = examples.example_id.str.partition("/")[0]
    assert (by_name == examples.label_name).all()
    context = Context(opened, Options(steps=(opened.steps[-1],)))
    table = run_pass(context, PASSES["gradients"])
    together = table.merge(examples, on=["split", "example_id"])
    assert len(together) == len(table) == 51
    assert (together.label_x == together.label_y).all()


def test_human_noise_with_its_truth_is_told_from_clean_examples(tmp_path):
    generator = np.random.default_rng(0)
    true = np.arange(240) % 4
    images = np.clip(generator.normal(40 + 50 * true[:, None, None], 12, (240, 4, 4)), 0, 255)
    given = np.where(np.arange(240) % 5 == 0, (true + 1) % 4, true)
    path = str(tmp_path / "human.npz")
    np.savez(path, images=images.astype(np.uint8), labels=given, true_labels=true)
    config = config_of(source="npz", path=path)
    config.train.num_epochs = 6
    opened, said = trained(config, tmp_path / "run")
    assert "labels (" in said[1]
    assert "are known to be wrong" in said[1]
    examples = opened.examples
    expected = (given != true)[examples["index"]]
    for column in ("is_corrupted", "is_mislabeled"):
        np.testing.assert_array_equal(examples[column], expected)
    np.testing.assert_array_equal(examples.true_label, true[examples["index"]])
    # The classes are easily told apart, so that clean labels are learned and wrong ones are not.
    last = opened.metrics.iloc[-1]
    assert last.clean_accuracy > 0.9
    assert last.corrupted_accuracy < 0.1
    np.testing.assert_array_equal(
        opened.validation.is_mislabeled, opened.validation.labels != opened.validation.true_labels
    )
    context = Context(opened, Options())
    difficulty = run_pass(context, PASSES["difficulty"])
    easy = difficulty[~difficulty.is_mislabeled].probability_correct.mean()
    assert easy > difficulty[difficulty.is_mislabeled].probability_correct.mean() + 0.5


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flowers")
    generator = np.random.default_rng(0)
    species = np.arange(60) % 3
    # Scales of their own: what is not standardised could not be trained.
    values = generator.normal(species[:, None], 0.3, (60, 4)) * [1e-3, 1, 50, 1e5] + 7
    names = np.array(["setosa", "versicolor", "virginica"])
    table = pd.DataFrame(values, columns=["a", "b", "c", "d"]).assign(label=names[species])
    table.to_csv(folder / "flowers.csv", index=False)
    config = config_of(source="table", path=str(folder / "flowers.csv"), standardize="feature")
    config.ensemble.size = 4
    config.ensemble.subset_fraction = 0.7
    config.corruption.kind = "random_inputs+wrong_labels"
    config.corruption.fraction = 0.1
    config.optimizer.learning_rate = 0.3
    config.train.num_epochs = 3
    return trained(config, folder / "run")


def test_features_train_an_mlp(flowers):
    opened, said = flowers
    assert said[1].startswith("data: 4 features, float32 in [")
    assert opened.train.images.shape == (48, 4)
    assert np.mean(opened.metrics.validation_accuracy.iloc[-1]) > 0.8
    derived = json.loads((opened.workdir / "config.json").read_text())["derived"]
    assert len(derived["feature_mean"]) == 4
    assert derived["class_names"] == ["setosa", "versicolor", "virginica"]


@pytest.fixture(scope="module")
def context(flowers):
    """One for all passes, so that they share programs."""
    opened, _ = flowers
    options = Options(
        steps=(opened.steps[-1],),
        radii=(0.01, 5.0),
        radius_units="standardized",
        num_probes=2,
        num_class_probes=2,
    )
    return Context(opened, options)


@pytest.mark.parametrize("name", [name for name in PASSES if name != "filters"])
def test_features_go_through_every_pass(context, name):
    table = run_pass(context, PASSES[name])
    assert len(table)
    # A radius is infinite where no other class was found, and so are units that changed nothing.
    may_be_infinite = ["found_radius", "num_units"]
    numbers = table.select_dtypes("number").drop(columns=may_be_infinite, errors="ignore")
    assert not np.isinf(numbers.to_numpy(float)).any()
    if name == "critical":  # radii are in the units that the model sees
        assert (table.radius == table.radius_as_given).all()
        found = table.groupby("radius").critical_lower.mean()
        assert found[0.01] < 0.2
        assert found[5.0] > 0.9


def test_what_is_for_images_only_is_refused_in_one_line(flowers, tmp_path):
    opened, _ = flowers
    for options, name, message in (
        ({}, "filters", "is for images; this run has 4 features"),
        ({"clip": True}, "critical", "--clip: is for pixels"),
        ({"radius_units": "pixel"}, "critical", "--radius_units=pixel: this run has features"),
    ):
        with pytest.raises(InputError, match=message):
            run_pass(Context(opened, Options(**options)), PASSES[name])
    config = config_of(source="table", path=opened.config.dataset.path, standardize="feature")
    config.model = {"name": "alexnet"}
    with pytest.raises(InputError, match=r"AlexNet: needs images .* features train an mlp"):
        run(prepare(resolve(config)), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "foldr"}, "did you mean folder.*or file.py:function"),
        ({"source": "folder"}, "source folder needs the path of a folder"),
        ({"source": "table"}, "source table needs the path of a .csv, .tsv or .parquet file"),
        ({"source": "huggingface"}, "huggingface needs the path of a folder that save_to_disk"),
        (
            {"scale": 255.0},
            r"dataset.scale=255.0: .* with the sources npz, table, .*source='digits'",
        ),
        ({"scale": -1.0}, r"dataset.scale=-1.0: must be a finite float32 number in \[0, "),
        ({"layout": "CHW"}, "dataset.layout='CHW': has an effect only with the sources npz"),
        ({"layout": "CWH"}, "did you mean CHW"),
        ({"label_column": "y"}, "label_column='y': .* the sources table, huggingface, tfds"),
        (
            {"source": "folder", "path": "x", "split_column": "y"},
            "split_column='y': .* the sources table, huggingface; here",
        ),
        ({"standardize": "features"}, "did you mean feature"),
        ({"standardize": "feature"}, r"is for \[n features\], but these are images \[8, 8, 1\]"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        prepare(resolve(config_of(**fields)))


def test_the_command_line_says_one_line_and_writes_nothing(ugly, tmp_path):
    flags = ["--config=configs/digits_real.py:quick", f"--workdir={tmp_path / 'run'}"]
    images = noise(0, 6, 3, 9, 9)
    np.savez(tmp_path / "chw.npz", images=images, labels=np.arange(6) % 2)
    for source, path, words in (
        ("folder", ugly, ("images of", "config.dataset.image_size=SIZE")),
        ("npz", tmp_path / "chw.npz", ("config.dataset.layout=CHW",)),
    ):
        fields = [f"--config.dataset.source={source}", f"--config.dataset.path={path}"]
        finished = command_line.run("memjax.main", *flags, *fields)
        command_line.assert_one_line_and_exit_2(finished, *words)
    assert not (tmp_path / "run").exists()


def test_the_command_line_trains_on_a_function_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    images = np.random.default_rng(0).random((60, 3, 8, 8))\n"
        "    return {'images': images, 'labels': ['ant', 'bee'] * 30}\n"
    )
    flags = ["--config=configs/digits_real.py:quick", f"--workdir={tmp_path / 'run'}"]
    flags += [f"--config.dataset.source={tmp_path / 'own.py'}:load", "--config.dataset.layout=CHW"]
    flags += ["--config.dataset.num_train=0", "--config.dataset.num_validation=-1"]
    flags += ["--config.model.widths=(8,)", "--config.train.batch_size=16"]
    flags += ["--config.train.num_epochs=1"]
    finished = command_line.run("memjax.main", *flags)
    assert finished.returncode == 0, finished.stderr
    assert "data: 8 x 8 pixels, 3 channels, float32 in [" in finished.stdout
    assert "classes of 24 examples each" in finished.stdout
    examples = pd.read_parquet(tmp_path / "run" / "examples.parquet")
    assert set(examples.label_name) == {"ant", "bee"}
