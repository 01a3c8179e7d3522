"""Datasets that TFDS has prepared, read back; and faces in a folder."""

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.sources import tfds_images, utkface
from tests.data import stand_ins


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  counts = {"train": 12, "test": 8}
  stand_ins.write(folder, "cifar10", "3.0.2", counts=counts)
  stand_ins.write(folder, "celeb_a", "2.1.0", counts=counts, celebrities=True)
  return folder


def quarter(image):
  """Which quarter of a stand-in is bright: its class."""
  height, width = image.shape[0] // 2, image.shape[1] // 2
  parts = [image[:height, :width], image[:height, width:]]
  parts += [image[height:, :width], image[height:, width:]]
  return int(np.argmax([part.mean() for part in parts]))


def test_images_and_labels_belong_together(folder):
  train, test = tfds_images.load("cifar10", folder)
  assert (len(train), len(test)) == (12, 8)
  assert train.class_names == tuple("0123456789") and train.bias is None
  for examples in (train, test):
    for row, label in enumerate(examples.labels):
      image = examples[row]["image"]
      assert image.shape == (32, 32, 3) and quarter(image) == label


@pytest.mark.parametrize("again", ["from the records", "from the copy"])
def test_nested_truth_values_can_be_label_and_bias(folder, again):
  _, test = tfds_images.load(
    "celeb_a",
    folder,
    label="attributes/Blond_Hair",
    bias="attributes/Male",
    image_size=16,
    channels=1,
  )
  assert test.class_names == ("not Blond_Hair", "Blond_Hair")
  assert test.bias_names == ("not Male", "Male")
  for row in range(len(test)):
    image = test[row]["image"]
    assert image.shape == (16, 16, 1)
    assert test.labels[row] == (quarter(image) < 2)
    assert test.bias[row] == (quarter(image) % 2 == 0)


def test_a_slice_of_a_split_is_a_split(folder):
  train, test = tfds_images.load("cifar10", folder, train="train[:8]", test="train[8:]")
  assert (len(train), len(test)) == (8, 4)
  assert all(quarter(test[row]["image"]) == test.labels[row] for row in range(4))


@pytest.mark.parametrize(
  ("settings", "says"),
  [
    ({"test": "validation"}, "no split validation: expected one of"),
    ({"label": "color"}, "no feature color: expected one of"),
    ({"label": "image"}, "expected a class label or a truth value"),
  ],
)
def test_what_is_not_there_is_named(folder, settings, says):
  with pytest.raises(ValueError, match=says):
    tfds_images.load("cifar10", folder, **settings)


def test_a_dataset_that_cannot_be_prepared_says_how_to(tmp_path):
  with pytest.raises(ValueError, match="run `tfds build nothing_of_the_kind"):
    tfds_images.load("nothing_of_the_kind", tmp_path)


def test_faces_tell_gender_and_ethnicity_by_their_file_names(tmp_path):
  for i in range(20):
    name = f"{20 + i}_{i % 2}_{i % 5}_2017010{i:07d}.jpg.chip.jpg"
    Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / name, "jpeg")
  Image.new("RGB", (40, 40)).save(tmp_path / "61_1_20170109.jpg")  # as some are
  train, test = utkface.load(tmp_path, image_size=32)
  assert (len(train), len(test)) == (16, 4)
  for examples in (train, test):
    for row in range(len(examples)):
      path = examples.source[int(examples.indices[row])]["image"]
      age, gender, ethnicity, _ = path.split("/")[-1].split("_")
      assert examples.labels[row] == int(gender)
      assert examples.bias[row] == (int(ethnicity) != 0)
      assert abs(int(age) - 20 - int(examples[row]["image"][16, 16, 0])) <= 2
  assert not set(train.indices) & set(test.indices)
  with pytest.raises(ValueError, match="holds 0 files named AGE_GENDER"):
    (tmp_path / "empty").mkdir()
    utkface.load(tmp_path / "empty", image_size=32)


def test_what_is_kept_is_made_once_and_again_where_a_name_is_missing(tmp_path):
  made = []

  def make():
    made.append({"one": np.arange(3), "other": np.arange(2) + len(made)})
    return made[-1]

  path = tmp_path / "kept.of.it.npz"
  for _ in range(2):
    found = tfds_images.kept(path, ["one", "other"], make)
    np.testing.assert_array_equal(found["one"], [0, 1, 2])
  assert len(made) == 1 and list(tmp_path.iterdir()) == [path]
  np.savez(path, one=np.arange(9))
  found = tfds_images.kept(path, ["one", "other"], make)
  np.testing.assert_array_equal(found["other"], [1, 2])
  assert len(made) == 2
  # Without a place to write it to, it is made each time.
  tfds_images.kept(tmp_path / "nowhere" / "kept.npz", ["one"], make)
  assert len(made) == 3 and list(tmp_path.iterdir()) == [path]


def test_all_records_come_in_order_whatever_their_number():
  class Numbers:
    def __len__(self):
      return 2500

    def __getitems__(self, some):
      return [{"label": i} for i in some]

  found = list(tfds_images.enumerate_records(Numbers(), "Counting"))
  assert found == [(i, {"label": i}) for i in range(2500)]
