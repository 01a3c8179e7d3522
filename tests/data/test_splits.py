"""What is held out, by class or by image."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.data.examples import from_arrays
from ccl_jax.data.splits import hold_out_classes, hold_out_of_classes


def of_labels(labels, num_classes):
  images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
  names = [f"class {k}" for k in range(num_classes)]
  return from_arrays(images, np.array(labels), names)


@pytest.mark.parametrize("fraction,held", [(0.2, 2), (0.5, 5)])
def test_held_out_classes_are_others_and_both_sides_dense(fraction, held):
  examples = of_labels([k for k in range(10) for _ in range(3)], 10)
  kept, out = hold_out_classes(examples, fraction, seed=1)
  assert out is not None and out.num_classes == held and len(kept) + len(out) == 30
  assert not set(kept.class_names) & set(out.class_names)
  for side in (kept, out):
    assert sorted(set(side.labels.tolist())) == list(range(side.num_classes))
    for i in range(len(side)):  # the name goes with the image
      example = side[i]
      assert (
        side.class_names[example["label"]] == f"class {example['image'].item() // 3}"
      )


def test_held_out_classes_depend_on_the_seed_alone():
  examples = of_labels(range(50), 50)
  names = [hold_out_classes(examples, 0.2, seed=s)[0].class_names for s in (3, 3, 4)]
  assert names[0] == names[1] != names[2]


def test_nothing_is_held_out_at_fraction_zero():
  examples = of_labels(range(5), 5)
  assert hold_out_classes(examples, 0.0, seed=0) == (examples, None)


@pytest.mark.parametrize("fraction", [0.1, 0.9, 1.5, -0.1])
def test_both_sides_need_two_classes(fraction):
  with pytest.raises(ValueError, match=f"fraction {fraction} of 10 classes .* least 2"):
    hold_out_classes(of_labels(range(10), 10), fraction, seed=0)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_part_of_each_class_is_held_out_and_groups_stay_whole(copies):
  sizes = [1, 2, 3, 6, 9, 14]
  labels = np.repeat(np.arange(6), sizes).repeat(copies)
  groups = np.arange(sum(sizes)).repeat(copies) if copies > 1 else None
  examples = dataclasses.replace(of_labels(labels, 6), groups=groups)
  kept, out = hold_out_of_classes(examples, 1 / 3, seed=2)
  expected = [round(size / 3) * copies for size in sizes]
  assert np.bincount(out.labels, minlength=6).tolist() == expected
  assert sorted([*kept.indices, *out.indices]) == list(range(len(labels)))
  for side in (kept, out):
    np.testing.assert_array_equal(side.labels, labels[side.indices])
    assert side.class_names == examples.class_names
  assert not set(kept.indices // copies) & set(out.indices // copies)
  other = hold_out_of_classes(examples, 1 / 3, seed=3)[1]
  assert other.indices.tolist() != out.indices.tolist()


def test_a_part_of_no_class_is_refused():
  with pytest.raises(ValueError, match="holds out 0 of 4 images: change the fraction"):
    hold_out_of_classes(of_labels(range(4), 4), 0.3, seed=0)
