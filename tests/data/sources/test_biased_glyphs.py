"""Digits on colors: how often they agree, and what is drawn."""

import numpy as np
import pytest

from ccl_jax.data.sources import biased_glyphs, biased_mnist, typefaces
from ccl_jax.data.sources.biased_glyphs import COLORS, choose_colors, paint
from tests.data import stand_ins

PALETTE = np.array(list(COLORS.values()))


@pytest.mark.parametrize(
  ("rho", "agreeing"), [(0.95, 190), (0.995, 199), (0.999, 199), (0.1, 20), (1.0, 200)]
)
def test_a_share_rho_of_each_class_has_its_color(rho, agreeing):
  labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 200))
  colors = choose_colors(labels, rho, seed=1)
  cells = np.zeros((10, 10), int)
  np.add.at(cells, (labels, colors), 1)
  assert (np.diag(cells) == agreeing).all()
  others = cells[~np.eye(10, dtype=bool)].reshape(10, 9)
  assert (np.ptp(others, axis=1) <= 1).all(), "the others go through all colors"
  assert (colors != choose_colors(labels, rho, seed=2)).any() == (rho < 1)


def test_paint_mixes_white_and_color():
  foreground = np.array([[[0, 255], [51, 0]]], np.uint8)
  (found,) = paint(foreground, np.array([list(COLORS).index("orange")]))
  np.testing.assert_array_equal(found[0], [[255, 128, 0], [255, 255, 255]])
  # A fifth of white and four fifths of orange.
  np.testing.assert_array_equal(found[1, 0], [255, 153, 51])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """The dataset at two rho, of four faces, with an eighth of their train images."""
  folder = tmp_path_factory.mktemp("biased")
  faces = typefaces.default_faces()[::4]
  with pytest.MonkeyPatch.context() as patch:
    copies = {"train": range(16), "test": range(128, 138)}
    patch.setattr(biased_glyphs, "_COPIES", copies)
    patch.setattr(typefaces, "default_faces", lambda: faces)
    sets = {rho: biased_glyphs.load(folder, rho=rho) for rho in (0.95, 0.99)}
    half, _ = biased_glyphs.load(folder, rho=0.95, image_size=16)
    return sets, half


def background(images):
  """The palette's color nearest to that of most pixels."""
  middle = np.median(images.reshape(len(images), -1, 3), axis=1)
  return np.abs(middle[:, None] - PALETTE).sum(axis=2).argmin(axis=1)


def test_the_images_have_the_colors_they_are_said_to_have(built):
  for train, test in built[0].values():
    for examples in (train, test):
      images = examples.take(np.arange(len(examples)))["image"]
      assert images.shape == (len(examples), 32, 32, 3)
      np.testing.assert_array_equal(background(images), examples.bias)


def test_the_color_agrees_in_training_and_tells_nothing_in_the_test(built):
  for rho, (train, test) in built[0].items():
    assert train.class_names == test.class_names == tuple("0123456789")
    assert train.bias_names == tuple(COLORS)
    assert len(train) == 4 * 16 * 10
    # Of 64 a class: 60 and 63.
    assert (train.labels == train.bias).sum() == {0.95: 600, 0.99: 630}[rho]
    cells = np.zeros((10, 10), int)
    np.add.at(cells, (test.labels, test.bias), 1)
    assert (cells == 4).all()


def test_the_test_images_do_not_depend_on_rho(built):
  (_, one), (_, other) = built[0].values()
  everything = np.arange(len(one))
  np.testing.assert_array_equal(
    one.take(everything)["image"], other.take(everything)["image"]
  )


def test_half_the_size_is_the_mean_of_pixels(built):
  """Scaled with Pillow's filter: near the mean of each 2 x 2."""
  whole, half = built[0][0.95][0], built[1]
  some = np.arange(50)
  images = whole.take(some)["image"].astype(float)
  means = images.reshape(50, 16, 2, 16, 2, 3).mean(axis=(2, 4))
  found = half.take(some)["image"]
  assert found.shape == means.shape and np.abs(found - means).mean() < 8


def test_another_rho_is_refused(tmp_path):
  with pytest.raises(ValueError, match="rho=0.9: expected one of 0.999, 0.997"):
    biased_glyphs.load(tmp_path, rho=0.9)


def test_biased_mnist_is_white_where_a_pixel_is_not_black(tmp_path):
  stand_ins.write(
    tmp_path, "mnist", "3.0.1", size=28, channels=1, counts={"train": 80, "test": 40}
  )
  train, test = biased_mnist.load(tmp_path, rho=0.95)
  assert (train.labels == train.bias).sum() == 4 * 19
  assert len(test) == 40 and (test.labels == test.bias).sum() == 4
  image = train[0]["image"]
  assert image.shape == (32, 32, 3)
  np.testing.assert_array_equal(
    image[:2], np.broadcast_to(PALETTE[train.bias[0]], (2, 32, 3))
  )
  pixels = image[2:-2, 2:-2].reshape(-1, 3)
  white = (pixels == 255).all(axis=1)
  assert white.mean() > 0.9 and (pixels[~white] == PALETTE[train.bias[0]]).all()
