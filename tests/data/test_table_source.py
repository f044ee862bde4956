"""Tables: pictures by path or bytes, columns of numbers; every column is read or said to be not."""

import numpy as np
import pandas as pd
import pytest

from memjax.config import Dataset
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from tests.data.pictures import encoded, noise, write_folder

PIXELS = noise(0, 6, 5, 4)
FILES = {f"images/{n}.png": encoded(pixels) for n, pixels in enumerate(PIXELS)}
LABELS = ["b", "a", "b", "NA", "a", "NA"]


def frame(**columns):
    table = pd.DataFrame({"path": list(FILES), "label": LABELS})
    return table.assign(**columns)


def flowers(**columns):
    values = np.random.default_rng(1).normal(5, 2, (6, 2))
    table = pd.DataFrame({"width": values[:, 0], "height": values[:, 1], "label": [0, 1, 2] * 2})
    return table.assign(**columns)


@pytest.fixture
def load(tmp_path):
    def load(table, name="own.csv", **fields):
        write_folder(tmp_path, FILES)
        path = tmp_path / name
        if isinstance(table, str | bytes):
            path.write_bytes(table.encode() if isinstance(table, str) else table)
        elif name.endswith(".parquet"):
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep="\t" if name.endswith(".tsv") else ",")
        fields = {"num_validation": 0, "cache_dir": str(tmp_path / "cache")} | fields
        return load_dataset(Dataset(source="table", path=str(path), **fields))

    return load


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "own.parquet"])
def test_paths_are_relative_to_the_table_and_a_class_may_be_called_NA(load, name):
    dataset = load(frame(), name)
    np.testing.assert_array_equal(dataset.train.images[..., 0], PIXELS)
    assert dataset.class_names == ("NA", "a", "b")
    np.testing.assert_array_equal(dataset.train.labels, [2, 1, 2, 0, 1, 0])
    assert dataset.train.example_ids.tolist() == list(FILES)
    assert dataset.notes == ("columns read: image from 'path', label from 'label'; ignored: none",)


def test_splits_ids_and_true_labels_come_from_their_columns(load):
    split = ["train", "train", "val", "train", "test", "train"]
    true = ["a", "a", "b", "NA", "a", "b"]
    ids = ["001", "002", "003", "004", "005", "006"]
    dataset = load(frame(split=split, true_label=true, id=ids, comment="hm"), num_validation=-1)
    train, validation = dataset.train, dataset.validation
    assert train.example_ids.tolist() == ["001", "002", "004", "006"]
    np.testing.assert_array_equal(train.index, [0, 1, 2, 3])
    np.testing.assert_array_equal(train.labels, [2, 1, 0, 0])
    np.testing.assert_array_equal(train.true_labels, [1, 1, 0, 2])
    assert validation.example_ids.tolist() == ["003"]
    np.testing.assert_array_equal(validation.images[0, ..., 0], PIXELS[2])
    assert dataset.notes[0] == "1 rows of other splits are not read (test)"
    assert "true label from 'true_label', split from 'split', id from 'id'" in dataset.notes[1]
    assert dataset.notes[1].endswith("ignored: comment")


def test_bytes_in_a_column_are_decoded_and_numbered(load):
    for column in (list(FILES.values()), [{"bytes": b, "path": None} for b in FILES.values()]):
        table = frame(image=column).drop(columns="path")
        dataset = load(table, "own.parquet")
        np.testing.assert_array_equal(dataset.train.images[..., 0], PIXELS)
        assert dataset.train.example_ids.tolist() == list("012345")


def test_an_odd_picture_of_the_validation_split_is_not_that_of_the_same_number_in_training(load):
    wide = encoded(noise(1, 4, 20))
    content = [*FILES.values(), *FILES.values()]
    table = pd.DataFrame({"label": LABELS * 2, "split": ["train"] * 6 + ["val"] * 6})
    for place, odd in ((1, ("1",)), (7, ())):
        images = [*content[:place], wide, *content[place + 1 :]]
        chosen = {"image_size": 5, "num_validation": -1}
        assert load(table.assign(image=images), "own.parquet", **chosen).odd_sized == odd


def test_columns_of_numbers_are_features_and_pandas_own_index_is_not(load):
    table = flowers(colour="red")
    table.insert(0, "Unnamed: 0", range(6))
    dataset = load(table, standardize="feature")
    assert dataset.train.images.shape == (6, 2)
    values = table[["width", "height"]].to_numpy()
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(dataset.train.images, expected, atol=1e-5)
    assert dataset.train.example_ids.tolist() == list("012345")
    [note] = dataset.notes
    assert "2 features (width, height)" in note
    assert note.endswith("ignored: Unnamed: 0, colour")


def test_lists_of_numbers_are_features(load):
    values = np.random.default_rng(1).normal(size=(6, 3))
    table = pd.DataFrame({"embedding": values.tolist(), "label": [0, 1, 2] * 2})
    dataset = load(table, "own.parquet", standardize="feature")
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(dataset.train.images, expected, atol=1e-5)


def test_columns_of_any_name_can_be_chosen(load):
    table = frame(other=LABELS[::-1]).rename(columns={"path": "where it is"})
    fields = {"image_column": "where it is", "label_column": "other", "id_column": "label"}
    with pytest.raises(InputError, match="example_ids: 'b' stands there twice"):
        load(table, **fields)
    dataset = load(table, **fields | {"id_column": ""})
    np.testing.assert_array_equal(dataset.train.labels, [0, 1, 0, 2, 1, 2])


def test_missing_and_broken_pictures_are_left_out_and_named(load):
    table = frame()
    table.loc[1, "path"] = "images/none.png"
    dataset = load(table)
    assert dataset.train.index.tolist() == [0, 2, 3, 4, 5]
    assert "images/none.png (No such file or directory)" in dataset.notes[-1]


def test_a_first_row_without_a_picture_is_left_out_and_the_others_keep_their_paths_as_ids(load):
    table = frame()
    table.loc[0, "path"] = None
    train = load(table).train
    assert train.index.tolist() == [1, 2, 3, 4, 5]
    assert train.example_ids.tolist() == list(FILES)[1:]


@pytest.mark.parametrize("numbers", [[1, 2, 10], [-1, 1, 2], [0, 1, 3]])
def test_integer_labels_that_are_not_0_to_k_1_are_names_of_classes(load, numbers):
    split = ["train"] * 5 + ["test"]
    table = flowers(label=numbers * 2, true_label=numbers[:1] * 6, split=split)
    dataset = load(table, standardize="feature", num_validation=-1)
    assert dataset.class_names == tuple(str(number) for number in numbers)
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1]
    assert dataset.train.true_labels.tolist() == [0] * 5
    assert dataset.validation.labels.tolist() == [2]
    assert any("read as the names of classes: " in note for note in dataset.notes)


def test_rows_of_the_splits_training_and_testing_are_read(load):
    table = flowers(split=["training"] * 3 + ["testing"] * 3)
    dataset = load(table, standardize="feature", num_validation=-1)
    assert (len(dataset.train), len(dataset.validation)) == (3, 3)


def test_columns_of_parquet_may_be_called_by_numbers(load):
    table = pd.DataFrame({0: np.arange(6.0), 1: [0, 1, 2] * 2})
    dataset = load(table, "own.parquet", label_column="1", standardize="feature")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.train.images.shape == (6, 1)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3)])
def test_nested_lists_of_numbers_are_images(load, shape):
    values = np.random.default_rng(1).random((6, *shape))
    table = pd.DataFrame({"image": values.tolist(), "label": [0, 1, 2] * 2})
    images = load(table, "own.parquet").train.images
    np.testing.assert_allclose(images, values.reshape(images.shape), rtol=1e-6)
    assert images.shape[1:3] == (4, 3)


def test_other_bytes_in_the_table_are_decoded_anew(load):
    def images_of(table):
        return load(table, "own.parquet").train.images.copy()

    first = images_of(frame(image=list(FILES.values())).drop(columns="path"))
    second = images_of(frame(image=list(FILES.values())[::-1]).drop(columns="path"))
    np.testing.assert_array_equal(first[::-1], second)


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        ("", {}, "cannot be read as csv .*No columns"),
        ("path,label\n", {}, "has no rows"),
        ("path,label\na,b,c\nd,e,f,g,h\n", {}, "cannot be read as csv"),
        (b"path,label\n\xff\xfe,a\n", {}, "cannot be read as csv .*utf-8"),
        (b"PAR1 no", {"name": "own.parquet"}, "cannot be read as parquet"),
        ("path,label\n", {"name": "own.xlsx"}, "must end in .csv, .tsv or .parquet"),
        (frame().drop(columns="label"), {}, "no column label, but path; set config.dataset.label"),
        (frame().drop(columns="path"), {}, "no column of images .* but label; set"),
        (frame(), {"label_column": "labl"}, "label_column='labl': no such column; did you mean"),
        (frame(target=1), {}, "columns label and target could each be meant; set config.dataset.l"),
        (frame(image="x"), {}, "columns path and image could each be meant"),
        (frame(), {"image_column": "label"}, "'label' cannot be two things at once"),
        (
            frame(label=["a", "b", None, "a", "b", "c"]),
            {},
            r"'label': 1 labels are missing \(row 2",
        ),
        (frame(label="a"), {}, r"all examples are of one class \(a\)"),
        (frame(label=[0.5, 1, 2] * 2), {}, "labels are float64"),
        (frame(label=[1.0, np.inf] * 3), {}, r"column 'label': inf is no class \(row 1\)"),
        (
            frame(label=[[0, 1], [1, 0]] * 3),
            {"name": "own.parquet"},
            "labels: number 0 holds 2 values; must be one integer or text each; of one-hot",
        ),
        (
            frame(true_label=[0, 1] * 3),
            {},
            "true_labels are integers, but the training labels are text; must be text as well",
        ),
        (frame(id=["a", None, "c", "d", "e", "f"]), {}, r"'id': 1 ids are missing \(row 1\)"),
        (frame(), {"scale": 2.0}, "config.dataset.scale=2.0: is for arrays of numbers, but these"),
        (frame(), {"layout": "CHW"}, "config.dataset.layout='CHW': is for arrays of numbers"),
        ("x,label,label\n1.5,0,0\n2.5,1,1\n", {}, "has two columns 'label'"),
        ("x,y,label\n1,2,0,5\n1,3,1,5\n", {}, "rows have more fields than the first line, of 3"),
        (frame(true_label=list("abcdef")), {}, "true_labels: 'c' is no class"),
        (frame(true_label=[0, 1, 2] * 2).assign(label=[0, 1, 0] * 2), {}, "2 is outside"),
        (frame(split="test"), {}, "column 'split': has no split train, but test"),
        (frame(split=None), {}, "column 'split': has no split train, but nothing"),
        (frame(path="../own.csv"), {}, r"row 0: '../own.csv' leaves the table's folder"),
        (frame(path="/etc/hostname"), {}, "row 0: '/etc/hostname' leaves the table's folder"),
        (frame(path="images"), {}, r"none of 6 images could be read: images \(Is a directory\)"),
        (frame(path="own.csv"), {}, r"none of 6 images could be read: own.csv \(no image\)"),
        (frame(path=list(FILES)[:1] * 6), {}, "example_ids: 'images/0.png' stands there twice"),
        (flowers(), {}, r"features range over .*set config.dataset.standardize=feature"),
        (
            flowers(width=[1.0, None, 2, 3, None, 4]),
            {"standardize": "feature"},
            r"column 'width': 2 values are missing \(row 1\)",
        ),
        (
            flowers(width=["1", "2", "?", "3", "NA", "4"]),
            {"standardize": "feature"},
            r"column 'width': '\?' is no number \(row 2\), but most .* fill in the 2 that are none",
        ),
        (flowers(width=np.inf), {"standardize": "feature"}, "NaN or infinite values, in 6 of 6"),
        (
            pd.DataFrame({"embedding": [[1.0, 2.0], [1.0]] * 3, "label": [0, 1] * 3}),
            {"name": "own.parquet"},
            "'embedding': must hold paths, encoded images, or lists of numbers of one length",
        ),
    ],
)
def test_what_is_no_table_of_examples_is_refused_with_one_line(load, table, fields, message):
    with pytest.raises(InputError, match=message) as raised:
        load(table, **fields)
    assert "\n" not in str(raised.value)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_dataset(Dataset(source="table", path=str(tmp_path / "none.csv")))
