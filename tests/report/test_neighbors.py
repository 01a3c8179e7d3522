"""Which queries a page shows."""

import pytest

from ccl_jax.report.neighbors import (
  Neighbors,
  hardest_mistakes,
  matches,
  random_queries,
)


def test_matches_are_right_where_the_class_is_the_same(neighbors):
  first, second = matches(neighbors, 0)
  assert (first.index, first.label, first.correct) == (1, 0, True)
  assert (second.index, second.label, second.correct) == (2, 1, False)
  assert first.similarity == pytest.approx(0.95)
  assert len(matches(neighbors, 0, most=1)) == 1


def test_mistakes_come_most_confident_first_one_a_pair_of_classes(neighbors):
  # Query 1 confuses classes 0 and 1, as the more confident query 2 does; 4 and 5 are
  # surer still, but have nothing right to find.
  assert hardest_mistakes(neighbors, 5) == [2, 3]
  assert hardest_mistakes(neighbors, 1) == [2]


def test_random_queries_are_seeded_and_can_be_answered(neighbors):
  assert random_queries(neighbors, 99) == [0, 1, 2, 3]
  drawn = [random_queries(neighbors, 2, seed=seed) for seed in range(9)]
  assert drawn == [random_queries(neighbors, 2, seed=s) for s in range(9)]
  assert len(set(map(tuple, drawn))) > 1


def test_with_a_separate_gallery_one_picture_of_the_class_is_enough(neighbors):
  fields = vars(neighbors) | {"gallery_images": neighbors.gallery_images.copy()}
  assert len(random_queries(Neighbors(**fields), 99)) == 6
