"""Training views against per-image loops, and as functions of their generator."""

import colorsys
import functools
import io
import math

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data import views

VIEWS = {
  "warp": views.warp,
  "contrast": views.contrast,
  "noise": views.noise,
  "flip": views.flip,
  "crop_and_flip": views.crop_and_flip,
  "color_jitter": views.color_jitter,
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


def only(**strength):
  """A jitter of every image by one kind of change, as a function of images and rng."""
  none = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
  return functools.partial(views.color_jitter, **(none | strength), probability=1.0)


def luma(images):
  return images @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_mixes_with_black_with_the_mean_and_with_gray(name):
  """torchvision's formula: factor * image + (1 - factor) * other, clipped to a byte."""
  images = photos(batch=8, height=20, width=20)
  seen = only(**{name: 0.5})(images, np.random.default_rng(0))
  place = ("brightness", "contrast", "saturation").index(name)
  factors = 1 + 0.5 * np.random.default_rng(0).uniform(-1, 1, size=(8, 4))[:, place]
  for image, changed, factor in zip(images, seen, factors, strict=True):
    gray = luma(image)
    other = {
      "brightness": np.zeros(1),
      "contrast": np.full(1, round(gray.mean())),
      "saturation": gray[..., None],
    }[name]
    expected = np.clip(factor * image + (1 - factor) * other, 0, 255)
    np.testing.assert_allclose(changed, expected, atol=1.6)  # bytes, luma twice rounded


def test_jitter_turns_the_hue_by_its_draw():
  """Primary colors, a third of the wheel apart: turned to where colorsys says."""
  images = np.zeros((30, 2, 2, 3), np.uint8)
  images[..., 0] = 250
  seen = only(hue=0.5)(images, np.random.default_rng(4))
  turns = 0.5 * np.random.default_rng(4).uniform(-1, 1, size=(30, 4))[:, 3]
  for changed, turn in zip(seen, turns, strict=True):
    expected = 250 * np.array(colorsys.hsv_to_rgb(turn % 1, 1, 1))
    # A step of the hue, of 256, is 6 of a byte; it is rounded twice.
    np.testing.assert_allclose(changed, np.broadcast_to(expected, (2, 2, 3)), atol=13)


def test_jitter_changes_as_many_images_as_it_is_told():
  images = np.repeat(photos(batch=1), 400, axis=0)
  seen = views.color_jitter(images, np.random.default_rng(0))
  assert 290 < (seen != images).any((1, 2, 3)).sum() < 350  # 320 +- 8
  seen = views.color_jitter(images[..., :1], np.random.default_rng(0))
  assert (seen != images[..., :1]).any((1, 2, 3)).sum() > 250


def test_jitter_changes_in_a_random_order():
  """A strong contrast clips at 255, and half the brightness at 127 if it comes last."""
  images = np.repeat(photos(batch=1), 400, axis=0) // 2 + 128
  jitter = only(brightness=1.0, contrast=1.0)
  seen = jitter(images, np.random.default_rng(0)).max((1, 2, 3))
  brightness, contrast = (
    1 + np.random.default_rng(0).uniform(-1, 1, size=(400, 4)).T[:2]
  )
  cases = (contrast > 1.6) & (0.3 < brightness) & (brightness < 0.7)
  over = seen[cases] - 255 * brightness[cases]
  contrast_first = (over < 2).sum()
  assert 0.3 < contrast_first / cases.sum() < 0.7 and (over[over > 2] > 10).all()


def test_gray_leaves_luma_in_a_fifth_of_the_images():
  images = np.repeat(photos(batch=1), 500, axis=0)
  seen = views.gray(images, np.random.default_rng(0))
  changed = (seen != images).any((1, 2, 3))
  assert 70 < changed.sum() < 130  # 100 +- 9
  expected = np.repeat(luma(images[0])[..., None], 3, axis=2)
  np.testing.assert_allclose(seen[changed][0], expected, atol=0.51)
  one = images[:9, ..., :1]
  np.testing.assert_array_equal(views.gray(one, np.random.default_rng(0)), one)


def photo(width=90, height=60, kind="PNG"):
  """A picture whose red says how far right a pixel is, and its green how far down."""
  pixels = np.zeros((height, width, 3), np.uint8)
  pixels[..., 0] = np.linspace(0, 255, width)
  pixels[..., 1] = np.linspace(0, 255, height)[:, None]
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind, quality=95)
  return Image.open(file)


def test_a_crop_is_a_box_of_the_picture_resized_with_its_area_filtered():
  """A box of whole pixels, found from its corners, and averaged down by 2 and more."""
  noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
  picture = Image.fromarray(noise)
  for seed in range(5):
    box = views._random_box(160, 120, np.random.default_rng(seed), 0.3)
    crop = functools.partial(views.random_resized_crop, size=12, smallest=0.3)
    seen = np.asarray(crop(picture, np.random.default_rng(seed)), float)
    left, top, right, bottom = box
    down = triangles(bottom - top, 12) @ noise[top:bottom, left:right].reshape(
      bottom - top, -1
    )
    expected = np.einsum(
      "oi,hic->hoc", triangles(right - left, 12), down.reshape(12, right - left, 3)
    )
    inner = np.s_[1:-1, 1:-1]  # the edge sees pixels outside of the box
    np.testing.assert_allclose(seen[inner], expected[inner], atol=1.5)


def triangles(length, size):
  """Weights f64[size,length] of bilinear resizing over all pixels that shrink to one.

  The filter of torchvision's antialias=True: a triangle of twice the scale's width.
  """
  scale = length / size
  centers = (np.arange(size)[:, None] + 0.5) * scale
  distance = np.abs(np.arange(length) + 0.5 - centers) / max(scale, 1)
  weights = np.maximum(1 - distance, 0)
  return weights / weights.sum(1, keepdims=True)


def test_boxes_have_the_areas_and_ratios_of_a_random_resized_crop():
  rng = np.random.default_rng(0)
  boxes = np.array([views._random_box(500, 375, rng, 0.2) for _ in range(2000)])
  width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
  assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (500, 375)).all()
  area, ratio = width * height / (500 * 375), width / height
  assert 0.19 < area.min() < 0.22 and area.max() > 0.95
  # Uniform where no box sticks out: below 9/16 of the area, the square of 3/4.
  below = area[area < 0.55]
  np.testing.assert_allclose(np.median(below), (0.2 + 0.55) / 2, atol=0.02)
  assert 0.74 < ratio.min() < 0.78 and 1.3 < ratio.max() < 1.35
  np.testing.assert_allclose(np.log(ratio[area < 0.55]).mean(), 0, atol=0.02)
  assert boxes[:, 0].min() == 0 and boxes[:, 2].max() == 500  # they reach the edges


@pytest.mark.parametrize(
  ("size", "expected"), [((900, 30), (430, 0, 470, 30)), ((30, 900), (0, 430, 30, 470))]
)
def test_a_picture_too_narrow_for_any_box_gives_its_middle(size, expected):
  assert views._random_box(*size, np.random.default_rng(0), 0.9) == expected


def test_a_large_jpeg_is_decoded_no_larger_than_its_box_needs():
  """A draft of it shows in the picture's size, and the same part is seen."""
  for seed in range(4):
    whole, large = photo(1600, 1200), photo(1600, 1200, "JPEG")
    crop = functools.partial(views.random_resized_crop, size=200, smallest=0.5)
    expected = np.asarray(crop(whole, np.random.default_rng(seed)), float)
    seen = np.asarray(crop(large, np.random.default_rng(seed)), float)
    np.testing.assert_allclose(seen, expected, atol=6)
    assert large.width in (400, 800)
    box = views._random_box(1600, 1200, np.random.default_rng(seed), 0.5)
    assert (box[2] - box[0]) * large.width / 1600 >= 200


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_are_cropped(mode):
  cropped = views.random_resized_crop(
    photo().convert(mode), np.random.default_rng(0), size=16
  )
  assert cropped.size == (16, 16) and cropped.mode == ("L" if mode == "L" else "RGB")
  plain = views.random_resized_crop(photo(), np.random.default_rng(0), size=16)
  if mode != "P":  # a palette has no place for all colors
    want = np.asarray(plain.convert(cropped.mode), float)
    np.testing.assert_allclose(np.asarray(cropped, float), want, atol=4)
