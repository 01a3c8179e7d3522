"""A dataset that a kill or a disk has damaged: rebuilt, or its folder is named."""

import os
import shutil
import time

import numpy as np
import pytest

from ccl_jax.data.sources import glyphs
from tests.data import small_fonts


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
