"""Omniglot in TFDS's folder: its splits, the lists of few-shot papers, bad input."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from ccl_jax.data.sources import omniglot
from configs.base import Config, Data
from experiments.run import datasets

ALPHABETS = {"train": ("Greek", "Latin"), "test": ("Tifinagh",)}
CHARACTERS, DRAWERS = 3, 2
NAMES = [f"{a}_{c}" for a in ("Greek", "Latin", "Tifinagh") for c in range(CHARACTERS)]
COUNTS = {"train": (6, 12), "test": (3, 6)}


def write(folder, *, drawers, side=28, splits=("train", "test")):
  """A tiny Omniglot: paper is white, and the row of the one line of ink the class."""
  features = {
    "image": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
    "label": tfds.features.ClassLabel(names=NAMES),
    **({"drawer": np.int32} if drawers else {}),
  }

  def generate(split):
    for label, name in enumerate(NAMES):
      for drawer in range(DRAWERS):
        if name.split("_")[0] in ALPHABETS[split]:
          pixels = np.full((side, side), 255, np.uint8)
          pixels[label * side // 28 : (label + 1) * side // 28] = 0
          file = io.BytesIO()
          Image.fromarray(pixels).save(file, "png")
          file.seek(0)
          known = {"drawer": drawer} if drawers else {}
          yield f"{name} {drawer}", {"image": file, "label": label, **known}

  with registered.skip_registration():

    class Tiny(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version("3.0.0")
      code_path = None

      def _info(self):
        return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(features)
        )

      def _split_generators(self, dl_manager):
        return {split: generate(split) for split in splits}

      def _generate_examples(self):
        raise NotImplementedError

  Tiny.name = "omniglot"
  Tiny.__module__ = "tests.data"
  Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write(tmp_path_factory.mktemp("tfds"), drawers=True)


@pytest.fixture(autouse=True)
def counts(monkeypatch):
  monkeypatch.setattr(omniglot, "COUNTS", COUNTS)


def line_of(image):
  return int(image[..., 0].sum(axis=1).argmax())


def check(examples):
  """Each picture shows the character of its class, white on black."""
  assert set(examples.labels) == set(range(examples.num_classes))
  for row in range(len(examples)):
    found = examples[row]
    alphabet, character = examples.class_names[found["label"]].split("/")
    name = f"{alphabet}_{int(character.removeprefix('character')) - 1}"
    assert line_of(found["image"]) == NAMES.index(name)
    assert found["image"].mean() < 20


def test_the_splits_are_those_of_the_alphabets(folder):
  train, test = omniglot.load(folder)
  for examples, split in ((train, "train"), (test, "test")):
    check(examples)
    assert (examples.num_classes, len(examples)) == COUNTS[split]
    assert examples[0]["image"].shape == (28, 28, 1)
    for k in range(examples.num_classes):
      assert sorted(examples.bias[examples.labels == k]) == [0, 1]
  assert train.class_names[1] == "Greek/character02"
  assert test.class_names[0] == "Tifinagh/character01"


def test_a_copy_of_another_size_without_drawers_is_read_too(tmp_path):
  train, test = omniglot.load(write(tmp_path, drawers=False, side=56))
  assert train.bias is None and train[0]["image"].shape == (28, 28, 1)
  check(train)
  check(test)


def lists(folder, train, test):
  (folder / "trainval.txt").write_text(
    "".join(f"{n}/rot{r}\n" for n in train for r in "09")
  )
  (folder / "test.txt").write_text("".join(f"{n}/rot000\n" for n in test))
  return folder


def test_a_list_splits_characters_of_all_alphabets(folder, tmp_path):
  train_names = ["Tifinagh/character02", "Greek/character01", "Greek/character03"]
  test_names = ["Latin/character02", "Greek/character02"]
  train, test = omniglot.load(folder, lists=lists(tmp_path, train_names, test_names))
  assert train.class_names == (*train_names,) and test.class_names == (*test_names,)
  assert len(train) == 6 and len(test) == 4
  check(train)
  check(test)


def test_bad_lists_are_named(folder, tmp_path):
  with pytest.raises(ValueError, match="trainval.txt is missing: give a folder with"):
    omniglot.load(folder, lists=tmp_path / "nowhere")
  lists(tmp_path, ["Klingon/character01"], ["Greek/character01"])
  with pytest.raises(
    ValueError, match="names Klingon/character01, which Omniglot does"
  ):
    omniglot.load(folder, lists=tmp_path)
  lists(tmp_path, ["Greek/character01"], ["Greek/character01", "Latin/character01"])
  with pytest.raises(ValueError, match="lists Greek/character01 in trainval.txt and"):
    omniglot.load(folder, lists=tmp_path)


def test_a_dataset_that_is_not_whole_is_refused(folder, tmp_path, monkeypatch):
  write(tmp_path, drawers=False, splits=("train",))
  with pytest.raises(ValueError, match="has no split test: expected one of"):
    omniglot.load(tmp_path)
  monkeypatch.setattr(omniglot, "COUNTS", {**COUNTS, "test": (3, 7)})
  with pytest.raises(ValueError, match="3 characters and 6 images in test, expected 3"):
    omniglot.load(folder)


@pytest.mark.parametrize(
  ("turned", "classes"),
  [("none", (4, 2, 3)), ("train", (16, 2, 3)), ("all", (16, 8, 12))],
)
def test_turned_classes_are_made_after_classes_are_held_out(folder, turned, classes):
  data = datasets.load_data(
    Config(
      recall_at=(1,),
      data=Data(
        name="omniglot",
        data_dir=str(folder),
        image_size=28,
        validation_fraction=1 / 3,
        turned_classes=turned,
      ),
    )
  )
  splits = data.train, data.validation, data.test
  assert tuple(split.num_classes for split in splits) == classes
  kept, held, _ = ({"/".join(n.split("/")[-2:]) for n in s.class_names} for s in splits)
  assert not kept & held
