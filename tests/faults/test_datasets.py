"""A dataset that a kill or a disk has damaged: rebuilt, or its folder is named."""

import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.sources import folder, glyphs
from experiments import train
from tests.data import small_fonts
from tests.faults.test_workdir import refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  (folder / "fonts").mkdir()
  small_fonts.write(folder / "fonts")
  glyphs.load(folder / "data", fonts=folder / "fonts")
  return folder


@pytest.fixture
def copy(whole, tmp_path):
  shutil.copytree(whole / "data", tmp_path / "data")
  return tmp_path / "data"


def damage(path, how):
  data = path.read_bytes()
  if how == "deleted":
    path.unlink()
  elif how == "flipped":
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
  else:
    path.write_bytes(data[: {"cut": len(data) // 2, "empty": 0}[how]])


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "deleted"])
def test_a_damaged_copy_of_the_images_is_made_again(whole, copy, how):
  (path,) = copy.rglob("train.decoded.npz")
  damage(path, how)
  train, _ = glyphs.load(copy, fonts=whole / "fonts")
  expected, _ = glyphs.load(whole / "data", fonts=whole / "fonts")
  np.testing.assert_array_equal(train.source.images, expected.source.images)
  with np.load(path) as mended:
    assert set(mended) == {"images", "labels", "drawings"}


@pytest.mark.parametrize("how", ["cut", "empty", "deleted"])
@pytest.mark.parametrize(
  "name", ["*train.array_record*", "dataset_info.json", "label.labels.txt"]
)
def test_a_damaged_dataset_is_named(whole, copy, name, how):
  for path in copy.rglob("*.npz"):
    path.unlink()
  (path,) = copy.rglob(name)
  damage(path, how)
  with pytest.raises(
    ValueError, match=f"in {copy / 'glyphs'} cannot be read .* delete"
  ):
    glyphs.load(copy, fonts=whole / "fonts")
  shutil.rmtree(copy / "glyphs")
  glyphs.load(copy, fonts=whole / "fonts")


def test_what_a_killed_build_left_is_deleted_after_a_day(whole, copy):
  (version,) = copy.glob("glyphs/*/1.0.0")
  old, new = (version.parent / f"incomplete.{name}_1.0.0" for name in ("OLD", "NEW"))
  for path in (old, new):
    path.mkdir()
  os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
  glyphs.load(copy, fonts=whole / "fonts")
  assert new.exists() and not old.exists()


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_picture_that_was_cut_short_is_found_before_training(
  pictures, tmp_path, extension
):
  paths = [tmp_path / f"{name}.{extension}" for name in ("whole", "cut")]
  for path in paths:
    Image.open(pictures / "class_00" / "0.png").save(path)
  folder.verify(folder.unlabeled(tmp_path, image_size=32))
  whole = paths[1].read_bytes()
  for kept in (len(whole) // 2, len(whole) - 24):
    paths[1].write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=f"cannot read image .*cut.{extension}"):
      folder.verify(folder.unlabeled(tmp_path, image_size=32))


def test_a_picture_damaged_during_training_is_one_line(
  arguments, pictures, tmp_path, monkeypatch, capsys
):
  images = tmp_path / "pictures"
  shutil.copytree(pictures, images)
  prepare = train.prepare

  def damage_later(*args):
    prepared = prepare(*args)
    for path in images.rglob("*.png"):
      damage(path, "cut")
    return prepared

  monkeypatch.setattr(train, "prepare", damage_later)
  told = refused(arguments(**{"data.images": images, "steps": 4}), capsys)
  assert "cannot read image" in told and "replace or delete it" in told
