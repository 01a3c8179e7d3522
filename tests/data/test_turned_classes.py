"""Quarter turns become classes of their own."""

import numpy as np
import pytest

from ccl_jax.data.examples import Decoded, Examples
from ccl_jax.data.turned_classes import with_turned_classes


def of_pictures(height, width):
  images = np.random.default_rng(0).integers(0, 256, (6, height, width, 1), np.uint8)
  return Examples(
    source=Decoded(images),
    indices=np.array([5, 0, 3, 2]),
    labels=np.array([0, 1, 2, 1], np.int32),
    class_names=("a/x", "a/y", "b/z"),
    channels=1,
    bias=np.array([7, 8, 9, 7]),
    groups=np.array([1, 1, 0, 2]),
  )


def test_each_turn_of_a_class_is_a_class():
  before = of_pictures(3, 3)
  after = with_turned_classes(before)
  assert len(after) == 16 and after.num_classes == 12
  for turn in range(4):
    for row in range(4):
      at = 4 * turn + row
      found, original = after[at], before[row]
      np.testing.assert_array_equal(
        found["image"][..., 0], np.rot90(original["image"][..., 0], turn)
      )
      name = before.class_names[before.labels[row]]
      assert after.class_names[found["label"]] == f"rot{90 * turn:03}/{name}"
      assert after.bias[at] == before.bias[row]
      # Turned copies of a drawing never test each other: they differ by class.
      assert after.groups[at] == before.groups[row] + turn * 3


def test_pictures_that_are_no_squares_are_refused():
  with pytest.raises(ValueError, match="images are 3 x 4: give image_size"):
    with_turned_classes(of_pictures(3, 4))
