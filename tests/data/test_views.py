"""Training views against per-image loops, and as functions of their generator."""

import colorsys
import functools
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ccl_jax.data import views

VIEWS = {
  "warp": views.warp,
  "contrast": views.contrast,
  "noise": views.noise,
  "flip": views.flip,
  "crop_and_flip": views.crop_and_flip,
  "chain": views.chain(views.flip, functools.partial(views.noise, sigma=0.1)),
}


def photos(batch=6, height=12, width=10, channels=3, seed=0):
  shape = (batch, height, width, channels)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_keeps_shape_and_type_and_changes_the_images(name, channels):
  images = photos(channels=channels)
  before = images.copy()
  seen = VIEWS[name](images, np.random.default_rng(1))
  assert seen.shape == images.shape and seen.dtype == np.uint8
  assert (seen != images).any()
  np.testing.assert_array_equal(images, before)  # the input is left alone


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_a_function_of_its_generator(name):
  first, same, other = (
    VIEWS[name](photos(), np.random.default_rng(seed)) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, same)
  assert (first != other).any()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_draws_for_each_image_anew(name):
  images = np.repeat(photos(batch=1), 20, axis=0)
  seen = VIEWS[name](images, np.random.default_rng(0))
  assert len(np.unique(seen.reshape(20, -1), axis=0)) > 1


def test_affine_is_bilinear_interpolation():
  rng = np.random.default_rng(3)
  images = photos(batch=5, height=9, width=7)
  matrices = np.tile(np.eye(2, 3), (5, 1, 1)) + rng.normal(0, 0.4, (5, 2, 3))
  seen = views.affine(images, matrices, 6)
  for b in range(5):
    for i in range(6):
      for j in range(6):
        x, y = matrices[b] @ (j - 2.5, i - 2.5, 1) + (3, 4)
        x, y = min(max(x, 0), 6), min(max(y, 0), 8)
        left, top = math.floor(x), math.floor(y)
        right, bottom = min(left + 1, 6), min(top + 1, 8)
        value = sum(
          images[b, row, column].astype(float) * weight
          for row, column, weight in (
            (top, left, (1 - y + top) * (1 - x + left)),
            (top, right, (1 - y + top) * (x - left)),
            (bottom, left, (y - top) * (1 - x + left)),
            (bottom, right, (y - top) * (x - left)),
          )
        )
        # Positions are kept to 1/256 of a pixel, so a step of 255 may be off by 2.
        np.testing.assert_allclose(seen[b, i, j], value, atol=2.6)


def test_the_unit_map_changes_nothing_in_batches_of_any_size():
  for batch in (1, 33, 200):
    images = photos(batch=batch, height=16, width=16)
    unit = np.tile(np.eye(2, 3), (batch, 1, 1))
    np.testing.assert_array_equal(views.affine(images, unit), images)


def test_whole_shifts_move_the_picture_and_repeat_the_edge():
  image = photos(batch=1, height=4, width=5)
  matrices = views.warp_matrices(
    np.zeros(1), np.zeros(1), np.zeros(1), np.array([[2.0, -1.0]])
  )
  moved = views.affine(image, matrices)[0]
  np.testing.assert_array_equal(moved[:3, 2:], image[0, 1:, :3])
  np.testing.assert_array_equal(moved[:3, 0], image[0, 1:, 0])
  np.testing.assert_array_equal(moved[3], moved[2])


@pytest.mark.parametrize(
  "draw,point,expected",
  [
    (dict(rotation=math.pi / 2), (1, 0), (0, 1)),  # right goes down: clockwise
    (dict(log_scale=math.log(2)), (1, 1), (2, 2)),
    (dict(shear=0.5), (0, 2), (1, 2)),
    (dict(shift=(3, -1)), (0, 0), (3, -1)),
  ],
)
def test_warp_matrices_lead_from_output_back_to_input(draw, point, expected):
  zero = dict(rotation=0.0, log_scale=0.0, shear=0.0, shift=(0.0, 0.0))
  numbers = {name: np.array([value]) for name, value in (zero | draw).items()}
  back = views.warp_matrices(**numbers)[0] @ (*expected, 1)
  np.testing.assert_allclose(back, point, atol=1e-12)


def test_contrast_scales_by_a_factor_in_its_range():
  images = np.full((50, 2, 2, 1), 100, np.uint8)
  values = views.contrast(images, np.random.default_rng(0), strength=0.2)[:, 0, 0, 0]
  assert 79 <= values.min() < 85 and 115 < values.max() <= 120
  bright = views.contrast(images + 155, np.random.default_rng(0), strength=0.2)
  assert bright.max() == 255 and bright.min() < 220


def test_noise_has_its_standard_deviation():
  images = np.full((8, 64, 64, 1), 128, np.uint8)
  seen = views.noise(images, np.random.default_rng(0), sigma=0.05).astype(float)
  assert abs(seen.mean() - 128) < 0.3 and abs(seen.std() - 0.05 * 255) < 0.3


def test_flip_mirrors_half_of_the_images():
  images = photos(batch=400)
  seen = views.flip(images, np.random.default_rng(0))
  mirrored = (seen == images[:, :, ::-1]).all((1, 2, 3))
  kept = (seen == images).all((1, 2, 3))
  assert (mirrored ^ kept).all() and 150 < mirrored.sum() < 250


def test_a_crop_stays_inside_and_covers_its_area():
  ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (300, 64, 64, 1))
  seen = views.crop_and_flip(ramp, np.random.default_rng(0), smallest=0.25).astype(int)
  spans = (np.abs(seen[:, 0, -1, 0] - seen[:, 0, 0, 0]) + 1) / 64
  assert math.sqrt(0.25 * 3 / 4) - 0.04 < spans.min() < 0.6 and 0.9 < spans.max() <= 1


class Fixed(np.random.Generator):
  """Draws the same for every image, as a test asks; the order is as it comes."""

  def __init__(self, change, order=(0, 1, 2, 3), changed=0.0):
    super().__init__(np.random.PCG64(0))
    self.change, self.order, self.changed = change, order, changed

  def uniform(self, low, high, size):
    return np.broadcast_to(self.change, size)

  def random(self, size):
    # The operation that a turn takes is where the sorted numbers lie.
    drawn = np.argsort(self.order) / 4 if len(size) > 1 else self.changed
    return np.broadcast_to(drawn, size)


def test_jitter_of_one_kind_equals_pillow():
  """At full strength 0.4, either way, beside Pillow's own enhancers."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
  kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
  for kind, enhance in enumerate(kinds):
    for sign in (-1, 1):
      found = views.jitter(images, Fixed(sign * np.eye(4)[kind]))
      for image, one in zip(images, found, strict=True):
        expected = np.asarray(enhance(Image.fromarray(image)).enhance(1 + 0.4 * sign))
        # Pillow rounds its greys to whole numbers first.
        assert np.abs(one.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("turn", [-1.0, -0.3, 0.6])
def test_jitter_of_hue_turns_the_circle_of_colours(turn):
  images = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), np.uint8)
  images[0, 0] = 77  # grey has no hue, and stays
  found = views.jitter(images, Fixed(turn * np.eye(4)[3]))
  for pixel, one in zip(images.reshape(-1, 3), found.reshape(-1, 3), strict=True):
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
    expected = colorsys.hsv_to_rgb((hue + 0.1 * turn) % 1, saturation, value)
    np.testing.assert_allclose(one, 255 * np.array(expected), atol=0.51)


def test_jitter_goes_by_the_order_drawn_and_leaves_some_images():
  images = np.full((1, 2, 2, 3), 200, np.uint8)
  images[0, 0] = 20
  change = np.array([1.0, -1.0, 0, 0])
  # 200 * 1.4 is cut to 255 before the contrast shrinks, and is not after it.
  mean = (255 + 28) / 2
  early = views.jitter(images, Fixed(change))
  assert abs(early[0, 1, 0, 0] - (mean + 0.6 * (255 - mean))) <= 1
  late = views.jitter(images, Fixed(change, order=(1, 0, 2, 3)))
  assert abs(late[0, 1, 0, 0] - 1.4 * (110 + 0.6 * 90)) <= 1
  np.testing.assert_array_equal(
    views.jitter(images, Fixed(change, changed=0.8)), images
  )


def test_grey_takes_the_colour_out_of_a_fifth():
  images = np.random.default_rng(2).integers(0, 256, (2000, 2, 2, 3), np.uint8)
  found = views.grey(images, np.random.default_rng(3))
  grey = (found == found[..., :1]).all(axis=(1, 2, 3))
  assert 0.17 < grey.mean() < 0.23
  np.testing.assert_array_equal(found[~grey], images[~grey])
  expected = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in images])
  assert np.abs(found[grey][..., 0].astype(int) - expected[grey]).max() <= 1
