"""Examples: decoding and subsets."""

import ast
import dataclasses
import io
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

import ccl_jax.data
from ccl_jax.data.examples import Examples, from_arrays
from ccl_jax.data.sources.folder import Files


def encoded(pixels, kind="PNG"):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind)
  return file.getvalue()


def of_images(*images, **options):
  return Examples(
    source=[{"image": image} for image in images],
    indices=np.arange(len(images)),
    labels=np.arange(len(images), dtype=np.int32),
    class_names=tuple(f"c{i}" for i in range(len(images))),
    **options,
  )


def of_labels(labels, num_classes):
  images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
  names = [f"class {k}" for k in range(num_classes)]
  return from_arrays(images, np.array(labels), names)


def test_bytes_paths_and_arrays_give_the_same_pixels(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  (tmp_path / "a.png").write_bytes(encoded(pixels))
  examples = of_images(encoded(pixels), str(tmp_path / "a.png"), pixels)
  for example in (examples[i] for i in range(3)):
    assert example["image"].dtype == np.uint8
    np.testing.assert_array_equal(example["image"], pixels)
  assert examples[1]["label"].dtype == np.int32 and examples[1]["label"] == 1


def test_images_are_cut_to_the_central_square():
  wide = np.zeros((10, 30, 3), np.uint8)
  wide[:, 10:20] = 255  # exactly the central square
  image = of_images(encoded(wide), image_size=5)[0]["image"]
  assert image.shape == (5, 5, 3) and image.min() > 100 and image[2, 2, 0] == 255


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (256, 256), (260, 256)])
@pytest.mark.parametrize(("shorter_side", "size"), [(256, 224), (64, 33)])
def test_a_shorter_side_is_resized_and_the_center_cut_as_torchvision_does(
  shape, shorter_side, size
):
  """torchvision's two steps on a Pillow image, written down from its documentation."""
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  image = of_images(encoded(pixels), image_size=size, shorter_side=shorter_side)[0][
    "image"
  ]
  height, width = shape
  short = min(shape)
  after = (int(shorter_side * width / short), int(shorter_side * height / short))
  resized = np.asarray(Image.fromarray(pixels).resize(after, Image.Resampling.BILINEAR))
  top = int(round((after[1] - size) / 2.0))
  left = int(round((after[0] - size) / 2.0))
  expected = resized[top : top + size, left : left + size]
  np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=1)


def test_a_shorter_side_below_the_size_is_refused():
  with pytest.raises(ValueError, match="shorter_side is 4: give image_size, 5, or"):
    of_images(np.zeros((8, 8, 3), np.uint8), image_size=5, shorter_side=4)


def test_a_cropped_photo_is_upright_and_of_its_channels():
  """The left half is black and the lower white, as the eye is to see it."""
  pixels = np.zeros((40, 40, 3), np.uint8)
  pixels[:, 20:] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # orientation: rotate by 90 degrees to view
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "JPEG", exif=exif)

  def crop(picture, rng):
    return picture.resize((8, 8))

  for channels in (1, 3):
    images = of_images(file.getvalue(), channels=channels)
    seen = images.take(np.arange(1), crop, np.random.default_rng(0))["image"]
    assert seen.shape == (1, 8, 8, channels) and seen.dtype == np.uint8
    assert seen[0, :3].max() < 60 and seen[0, 5:].min() > 190


def test_gray_and_color_are_converted():
  gray, color = np.full((4, 4), 7, np.uint8), np.full((4, 4, 3), 9, np.uint8)
  assert of_images(encoded(color), channels=1)[0]["image"].shape == (4, 4, 1)
  np.testing.assert_array_equal(
    of_images(encoded(gray))[0]["image"], [[[7] * 3] * 4] * 4
  )


def test_a_photo_is_turned_upright():
  image = Image.new("RGB", (4, 2), "red")
  exif = Image.Exif()
  exif[0x0112] = 6  # orientation: rotate by 90 degrees to view
  file = io.BytesIO()
  image.save(file, "JPEG", exif=exif)
  assert of_images(file.getvalue())[0]["image"].shape == (4, 2, 3)


@pytest.mark.parametrize("damage", [b"", b"no image at all", None])
def test_an_unreadable_image_is_named(damage, tmp_path):
  whole = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
  path = tmp_path / "broken.png"
  path.write_bytes(whole[:500] if damage is None else damage)
  with pytest.raises(
    ValueError, match=r"broken\.png of class c0 .*: replace or delete"
  ):
    of_images(str(path))[0]
  with pytest.raises(ValueError, match="cannot read image record 1 of class c1"):
    of_images(whole, path.read_bytes())[1]


def test_images_of_two_sizes_ask_for_image_size():
  images = [encoded(np.zeros((size, 4, 3), np.uint8)) for size in (4, 5)]
  with pytest.raises(ValueError, match="give image_size"):
    of_images(*images).take(np.arange(2))
  assert of_images(*images, image_size=4).take(np.arange(2))["image"].shape[0] == 2


def test_decoded_examples_are_the_same_ones():
  rng = np.random.default_rng(0)
  images = [encoded(rng.integers(0, 256, (4, 4, 3), np.uint8)) for _ in range(4)]
  examples = of_images(*images).subset([3, 1])
  decoded = examples.decoded()
  rows = np.array([1, 0, 1])
  for field in ("image", "label"):
    np.testing.assert_array_equal(decoded.take(rows)[field], examples.take(rows)[field])
  assert decoded.source.images.shape == (2, 4, 4, 3) and decoded.decoded() is decoded


def test_a_subset_numbers_its_classes_in_the_given_order():
  some = of_labels([0, 1, 2, 3, 1], 4).subset([3, 1])
  assert some.class_names == ("class 3", "class 1") and some.num_classes == 2
  np.testing.assert_array_equal(some.labels, [1, 0, 1])
  np.testing.assert_array_equal(
    [e["image"].item() for e in map(some.__getitem__, [0, 1, 2])], [1, 3, 4]
  )


def test_examples_travel_to_other_processes():
  examples = pickle.loads(
    pickle.dumps(of_images(encoded(np.zeros((2, 2, 3), np.uint8))))
  )
  assert examples[0]["image"].shape == (2, 2, 3)


def test_one_of_each_group_is_the_first():
  examples = dataclasses.replace(
    of_labels([0, 1, 0, 1, 0], 2), groups=np.array([7, 3, 7, 3, 1])
  )
  one = examples.one_of_each_group()
  assert one.indices.tolist() == [0, 1, 4] and one.groups.tolist() == [7, 3, 1]


def test_odd_fields_are_refused():
  with pytest.raises(ValueError, match="channels is 4"):
    of_images(np.zeros((2, 2, 3), np.uint8), channels=4)
  with pytest.raises(ValueError, match="one length"):
    Examples(
      source=[], indices=np.arange(3), labels=np.zeros(2, np.int32), class_names=("a",)
    )
  with pytest.raises(ValueError, match=r"groups \(2,\) and labels \(3,\): give the"):
    dataclasses.replace(of_labels([0, 0, 0], 1), groups=np.zeros(2, np.int32))


def test_no_module_of_the_data_imports_jax():
  for path in pathlib.Path(ccl_jax.data.__path__[0]).glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in getattr(node, "names", [])]
      names.append(getattr(node, "module", None) or "")
      if isinstance(node, ast.Import | ast.ImportFrom):
        roots = {name.split(".")[0] for name in names}
        assert not roots & {"jax", "flax", "jaxtyping", "optax"}, path


def test_ids_are_paths_or_numbers_of_the_source():
  examples = of_images(*np.zeros((4, 2, 2), np.uint8))
  assert examples.subset([1, 3]).ids == ["1", "3"]
  files = Files(("a.png", "b.png", "c.png", "d.png"))
  named = dataclasses.replace(examples, source=files)
  assert named.subset([1, 3]).ids == ["b.png", "d.png"]
