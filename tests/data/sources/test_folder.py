"""The user's own images."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.sources import folder


def images(root, classes, count=2):
  """A folder of images for each class; a class's number is the gray of its images."""
  for number, name in enumerate(classes):
    (root / name).mkdir(parents=True)
    for i in range(count):
      end = ("png", "jpg", "bmp")[i % 3]
      Image.new("RGB", (8 + i, 9), (number,) * 3).save(root / name / f"{i}.{end}")
  return root


def test_classes_split_in_halves_by_seed(tmp_path):
  names = [f"c{i}" for i in range(20)]
  images(tmp_path, names, count=3)
  train, test = folder.load(tmp_path, image_size=6)
  assert sorted(train.class_names + test.class_names) == sorted(names)
  assert (len(train), len(test)) == (30, 30)
  assert (train.num_classes, test.num_classes) == (10, 10)
  for split in (train, test):
    for i in range(0, len(split), 3):  # the PNG of each class
      example = split[i]
      assert example["image"].shape == (6, 6, 3)
      assert split.class_names[example["label"]] == f"c{example['image'][0, 0, 0]}"
  again, other = (folder.load(tmp_path, image_size=6, seed=s)[0] for s in (0, 1))
  assert again.class_names == train.class_names != other.class_names


def test_given_splits_are_kept(tmp_path):
  images(tmp_path / "train", ["a", "b", "c"])
  images(tmp_path / "test", ["d", "e"])
  train, test = folder.load(tmp_path, image_size=4, channels=1)
  assert train.class_names == ("a", "b", "c") and test.class_names == ("d", "e")
  assert train.take(np.arange(6))["image"].shape == (6, 4, 4, 1)
  np.testing.assert_array_equal(test.labels, [0, 0, 1, 1])


def test_other_files_are_ignored(tmp_path):
  images(tmp_path, "abcd")
  (tmp_path / "README.txt").write_text("x")
  (tmp_path / ".cache").mkdir()
  for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
    (tmp_path / "a" / name).write_text("x")
  (tmp_path / "a" / "CAPITALS.PNG").write_bytes((tmp_path / "a" / "0.png").read_bytes())
  train, test = folder.load(tmp_path, image_size=4)
  assert len(train) + len(test) == 9 and train.num_classes == test.num_classes == 2


def test_a_class_may_be_called_train(tmp_path):
  images(tmp_path, ["train", "bus", "car", "tram"])
  train, test = folder.load(tmp_path, image_size=4)
  assert "train" in train.class_names + test.class_names


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere is not a folder: give one"):
    folder.load(tmp_path / "nowhere", image_size=4)


@pytest.mark.parametrize("classes", ["", "abc"])
def test_too_few_classes(classes, tmp_path):
  images(tmp_path, classes)
  expected = f"holds {len(classes)} class folders, expected at least 4: make a folder"
  with pytest.raises(ValueError, match=re.escape(str(tmp_path)) + " " + expected):
    folder.load(tmp_path, image_size=4)


@pytest.mark.parametrize("empty", ["train", "test"])
@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_split_is_named(empty, exists, tmp_path):
  full = {"train": "test", "test": "train"}[empty]
  images(tmp_path / full, "ab")
  if exists:
    (tmp_path / empty).mkdir()
  with pytest.raises(ValueError, match=f"{empty} holds 0 class folders, expected at"):
    folder.load(tmp_path, image_size=4)


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_without_a_pair_of_images_is_named(count, tmp_path):
  images(tmp_path, "abcd")
  images(tmp_path, ["lonely"], count)
  with pytest.raises(ValueError, match=f"class 'lonely' .* has {count} image files"):
    folder.load(tmp_path, image_size=4)


def test_damage_is_found_by_verify_and_not_by_load(tmp_path):
  images(tmp_path, "abcd")
  train, test = folder.load(tmp_path, image_size=4)
  folder.verify(train), folder.verify(test)
  broken = tmp_path / train.class_names[1] / "1.jpg"
  broken.write_bytes(b"not a JPEG")
  train, _ = folder.load(tmp_path, image_size=4)
  with pytest.raises(ValueError, match=r"1\.jpg of class \w .*: replace or delete it"):
    folder.verify(train)


def decoded_by(examples, kept, monkeypatch):
  """Verifies, and returns the names of the files that were opened."""
  opened, opens = [], Image.open
  with monkeypatch.context() as patch:
    patch.setattr(
      Image, "open", lambda path: opened.append(Path(path).name) or opens(path)
    )
    folder.verify(examples, kept)
  return opened


def test_what_decoded_is_decoded_again_only_where_it_has_changed(tmp_path, monkeypatch):
  images(tmp_path / "data", "abcd")
  examples = folder.unlabeled(tmp_path / "data", image_size=4)
  kept = tmp_path / "cache" / "checked.npy"
  assert len(decoded_by(examples, kept, monkeypatch)) == len(examples)
  assert decoded_by(examples, kept, monkeypatch) == []
  changed = Path(examples.ids[3])
  os.utime(changed, ns=(0, 1))
  assert decoded_by(examples, kept, monkeypatch) == [changed.name]
  kept.write_bytes(b"damaged")
  assert len(decoded_by(examples, kept, monkeypatch)) == len(examples)
  assert len(decoded_by(examples, None, monkeypatch)) == len(examples)


def test_what_decoded_before_a_damaged_file_stays_done(tmp_path, monkeypatch):
  images(tmp_path / "data", "abcd")
  examples = folder.unlabeled(tmp_path / "data", image_size=4)
  last = Path(examples.ids[-1])
  whole = last.read_bytes()
  last.write_bytes(whole[:-24])
  kept = tmp_path / "checked.npy"
  with pytest.raises(ValueError, match=f"cannot read image {last}"):
    folder.verify(examples, kept)
  last.write_bytes(whole)
  assert decoded_by(examples, kept, monkeypatch) == [last.name]
