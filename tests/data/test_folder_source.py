"""A folder of pictures for each class, as people have them."""

import os

import numpy as np
import pytest

from memjax.config import Dataset
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from tests.data.pictures import encoded, noise, write_folder

CLASSES = {"cat": 6, "dog": 4, "newt": 1}


def pets(root, prefix="", **files):
    """Classes of very different size; each picture's first pixel tells it apart."""
    made = {}
    for name, count in CLASSES.items():
        for place in range(count):
            pixels = noise(place, 5, 4)
            pixels[0, 0] = 10 * place + len(name)
            made[f"{prefix}{name}/{place}.png"] = encoded(pixels)
    return write_folder(root, made | files)


@pytest.fixture
def load(tmp_path):
    def load(root=tmp_path / "pets", **fields):
        cache = str(tmp_path / "cache")
        return load_dataset(Dataset(source="folder", path=str(root), cache_dir=cache, **fields))

    return load


def test_classes_are_the_folders_and_ids_the_paths(tmp_path, load):
    dataset = load(pets(tmp_path / "pets"), num_validation=0)
    assert (dataset.name, dataset.class_names) == ("pets", ("cat", "dog", "newt"))
    train = dataset.train
    assert np.bincount(train.labels).tolist() == [6, 4, 1]
    assert train.example_ids.tolist()[:2] == ["cat/0.png", "cat/1.png"]
    assert train.example_ids.tolist() == sorted(train.example_ids)
    assert train.images[7, 0, 0, 0] == 13  # dog/1
    assert train.index.tolist() == list(range(11))
    assert dataset.notes == ()


def test_validation_is_held_out_by_class_and_the_only_newt_stays(tmp_path, load):
    dataset = load(pets(tmp_path / "pets"))
    assert len(dataset.validation) == 2
    assert set(dataset.train.labels) == {0, 1, 2}
    whole = set(dataset.train.example_ids) | set(dataset.validation.example_ids)
    assert len(whole) == 11


@pytest.mark.parametrize("held", ["validation", "val", "valid", "test", "Val", "testing", "eval"])
def test_folders_of_splits_are_used(tmp_path, load, held):
    root = pets(tmp_path / "pets", "train/")
    write_folder(root, {f"{held}/dog/x.png": encoded(noise(9, 5, 4))})
    dataset = load(root)
    assert (len(dataset.train), len(dataset.validation)) == (11, 1)
    assert dataset.validation.labels.tolist() == [1]
    assert dataset.validation.example_ids.tolist() == [f"{held}/dog/x.png"]
    assert dataset.train.example_ids[0] == "train/cat/0.png"


def test_a_folder_train_beside_folders_of_pictures_may_be_a_class_and_is_refused(tmp_path, load):
    root = pets(tmp_path / "pets", "train/")
    write_folder(root, {"bus/0.png": encoded(noise(9, 5, 4)), "docs/readme.txt": b"hm"})
    words = "folder train beside bus with pictures: if train is a split, .*if it is a class, move"
    with pytest.raises(InputError, match=words):
        load(root)
    write_folder(root, {"val/dog/x.png": encoded(noise(9, 5, 4))})
    assert load(root).notes == ("ignored: bus/, docs/",)  # beside val it is a split


def test_validation_goes_before_test_which_is_then_ignored_and_said(tmp_path, load):
    root = pets(tmp_path / "pets", "train/")
    write_folder(root, {f"{held}/dog/x.png": encoded(noise(9, 5, 4)) for held in ("val", "test")})
    (root / "README.md").write_text("pets")
    dataset = load(root)
    assert dataset.validation.example_ids.tolist() == ["val/dog/x.png"]
    assert dataset.notes == ("ignored: test/, README.md",)


def test_hidden_files_are_not_there_and_others_are_ignored_and_said(tmp_path, load):
    root = pets(tmp_path / "pets")
    junk = [".DS_Store", "cat/.hidden.png", ".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png"]
    write_folder(root, dict.fromkeys(junk, b"junk"))
    assert load(root).notes == ()
    write_folder(root, {"cat/notes.txt": b"hm"})
    assert load(root).notes == ("ignored: cat/notes.txt",)


def test_pictures_lie_at_any_depth_below_their_class(tmp_path, load):
    root = write_folder(pets(tmp_path / "pets"), {"dog/big/old/9.PNG": encoded(noise(9, 5, 4))})
    dataset = load(root, num_validation=0)
    [place] = np.flatnonzero(dataset.train.example_ids == "dog/big/old/9.PNG")
    assert dataset.train.labels[place] == 1


def test_a_broken_file_is_left_out_and_the_index_counts_it(tmp_path, load):
    root = write_folder(pets(tmp_path / "pets"), {"cat/3.png": b"broken"})
    dataset = load(root, num_validation=0)
    assert dataset.train.index.tolist() == [0, 1, 2, *range(4, 11)]
    assert "cat/3.png" not in dataset.train.example_ids
    assert "1 of 11 images are left out" in dataset.notes[0]


def test_links_that_leave_the_folder_are_left_out_and_those_within_are_read(tmp_path, load):
    root = pets(tmp_path / "pets")
    (tmp_path / "secret.png").write_bytes(encoded(noise(0, 5, 4)))
    os.symlink(tmp_path / "secret.png", root / "dog" / "out.png")
    os.symlink(root / "dog", root / "cat" / "loop")
    os.symlink(tmp_path, root / "outside")
    os.symlink(root / "dog" / "0.png", root / "dog" / "within.png")
    dataset = load(root, num_validation=0)
    assert "dog/within.png" in dataset.train.example_ids
    assert len(dataset.train) == 12
    [note] = dataset.notes
    assert note.startswith("warning: links")
    assert all(name in note for name in ("dog/out.png", "cat/loop", "outside"))


def test_true_labels_are_known_from_a_table_beside_the_folders(tmp_path, load):
    root = pets(tmp_path / "pets")
    (root / "true_labels.csv").write_text("path,true_label\ncat/2.png,dog\ndog/0.png,newt\n")
    train = load(root, num_validation=0).train
    wrong = train.labels != train.true_labels
    assert train.example_ids[wrong].tolist() == ["cat/2.png", "dog/0.png"]
    assert train.true_labels[wrong].tolist() == [1, 2]


def test_names_that_are_numbers_are_sorted_as_numbers(tmp_path, load):
    names = [str(n) for n in range(12)]
    root = write_folder(tmp_path / "pets", {f"{n}/a.png": encoded(noise(0, 2, 2)) for n in names})
    assert load(root, num_validation=0).class_names == tuple(names)


def test_names_of_files_that_are_no_text_can_be_written_to_tables(tmp_path, load):
    root = pets(tmp_path / "pets")
    with open(os.fsencode(root) + b"/cat/\xff.png", "wb") as file:
        file.write(encoded(noise(3, 5, 4)))
    ids = load(root, num_validation=0).train.example_ids
    assert "cat/\\udcff.png" in ids
    "".join(ids).encode()


PICTURE = encoded(noise(0, 5, 4))
TWO = {"cat/0.png": PICTURE, "dog/0.png": PICTURE}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no folders in it; must have a folder for each class"),
        ({"0.png": PICTURE}, "has no folders in it"),
        ({"cat/0.png": PICTURE}, r"all examples are of one class \(cat\)"),
        (TWO | {"owl/a.txt": b""}, r"the folder owl holds no picture \(.png, .jpg"),
        (TWO | {"owl/0.png": b"broken"}, r"class 2 of 3 has no training example \(owl\)"),
        ({"cat/0.png": b"", "dog/0.png": b""}, "none of 2 images could be read"),
        (TWO | {"cat/1.png": encoded(noise(0, 6, 6))}, "images of 2 sizes"),
        ({f"test/{k}": v for k, v in TWO.items()}, "a folder test with classes in it but no"),
        ({"train/0.png": PICTURE}, "train has no folder of a class in it"),
        (
            {f"train/{k}": v for k, v in TWO.items()} | {"val/owl/0.png": PICTURE},
            "validation labels: 'owl' is no class of the training labels",
        ),
        (
            TWO | {"true_labels.csv": b"file,class\na,b\n"},
            "must have columns path, true_label; has",
        ),
        (TWO | {"true_labels.csv": b""}, "true_labels.csv: No columns to parse"),
        (
            TWO | {"true_labels.csv": b"path,true_label\ncat/0.png,cat\ncat/0.png,dog\n"},
            "true_labels.csv: 'cat/0.png' stands there twice",
        ),
        (TWO | {"true_labels.csv": b"path,true_label\nx.png,cat\n"}, "'x.png' is no picture"),
        (
            TWO | {"true_labels.csv": b"path,true_label\ncat/0.png,owl\n"},
            "true_labels: 'owl' is no class of the training labels",
        ),
    ],
)
def test_what_is_no_folder_of_classes_is_refused_with_one_line(tmp_path, load, files, message):
    root = tmp_path / "pets"
    root.mkdir()
    with pytest.raises(InputError, match=message) as raised:
        load(write_folder(root, files))
    assert "\n" not in str(raised.value)
    assert "pets" in str(raised.value)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, load):
    (tmp_path / "pets").write_text("")
    with pytest.raises(InputError, match="must be a folder with a folder for each class"):
        load()
