import math
import re
from fractions import Fraction

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ccl_jax import retrieval

SELECTIONS = ["_select_on_host", "_select_on_device"]


@pytest.fixture(params=SELECTIONS)
def selection(request, monkeypatch):
  """Runs a test with the CPU's selection and with the accelerator's."""
  chosen = getattr(retrieval, request.param)
  monkeypatch.setattr(retrieval, "_select_on_host", chosen)
  return request.param


def signs(rows, dim, seed):
  """Rows of +-1: unit scaling and dot products are exact for dim 4 or 16."""
  return np.random.default_rng(seed).choice([-1.0, 1.0], (rows, dim)).astype("float32")


def ranked(queries, gallery=None):
  """For each query the sorted (-cosine, index) of all it may find, by definition."""
  among = gallery is None
  gallery = queries if among else gallery
  ranking = []
  for i, query in enumerate(np.asarray(queries, np.float64)):
    found = []
    for j, row in enumerate(np.asarray(gallery, np.float64)):
      lengths = math.sqrt(query @ query) * math.sqrt(row @ row)
      cosine = query @ row / lengths if lengths else 0.0
      if not (among and i == j):
        found.append((-cosine, j))
    ranking.append(sorted(found))
  return ranking


def scores(queries, labels, gallery=None, gallery_labels=None, *, ks):
  """The definitions, one query at a time, in exact fractions."""
  among = gallery is None
  gallery_labels = labels if among else gallery_labels
  total = {f"recall@{k}": Fraction(0) for k in ks}
  total |= {"map@r": Fraction(0), "r_precision": Fraction(0)}
  counted = 0
  for i, ranking in enumerate(ranked(queries, gallery)):
    hits = [bool(gallery_labels[j] == labels[i]) for _, j in ranking]
    relevant = sum(hits)
    if not relevant:
      continue
    counted += 1
    for k in ks:
      total[f"recall@{k}"] += any(hits[:k])
    for rank in range(1, relevant + 1):
      if hits[rank - 1]:
        total["map@r"] += Fraction(sum(hits[:rank]), rank) / relevant
    total["r_precision"] += Fraction(sum(hits[:relevant]), relevant)
  return {name: float(value / counted) for name, value in total.items()}


def check_search(queries, gallery=None, *, k, block):
  similarities, indices = retrieval.search(queries, gallery, k=k, block=block)
  expected = [ranking[:k] for ranking in ranked(queries, gallery)]
  assert similarities.dtype == np.float32 and indices.dtype == np.int32
  np.testing.assert_array_equal(indices, [[j for _, j in row] for row in expected])
  expected_similarities = [[-negative for negative, _ in row] for row in expected]
  np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (7, 5), (512, 4096)])
@pytest.mark.parametrize("k", [1, 3, 36])
def test_ties_rank_the_lower_index_first_whatever_the_block(block, k, selection):
  # 16 distinct directions among 37 rows: nearly every similarity is a tie.
  check_search(signs(37, 4, seed=0), k=k, block=block)


@pytest.mark.parametrize("block", [(1, 1), (5, 4), (512, 4096)])
@pytest.mark.parametrize("k", [1, 7, 23])
def test_a_separate_gallery_is_searched_whole(block, k, selection):
  check_search(signs(11, 16, seed=1), signs(23, 16, seed=2), k=k, block=block)


@pytest.mark.parametrize("k", [1, 10, 200])
def test_a_long_gallery_is_searched_exactly(k, selection):
  # Long enough that the host bounds the k-th similarity by maxima of groups.
  check_search(signs(5, 16, seed=3), signs(701, 16, seed=4), k=k, block=(3, 701))
  check_search(signs(5, 16, seed=3), signs(701, 16, seed=4), k=k, block=(3, 150))


def test_more_rows_than_fit_the_cache_at_once(selection):
  check_search(signs(75, 16, seed=5), k=9, block=(70, 40))


def test_real_valued_rows_of_any_length(selection):
  rng = np.random.default_rng(0)
  queries = rng.normal(size=(13, 6)) * np.exp(rng.normal(size=(13, 1)) * 5)
  gallery = rng.normal(size=(41, 6)) * np.exp(rng.normal(size=(41, 1)) * 5)
  check_search(queries, gallery, k=20, block=(4, 9))


def test_extreme_lengths_neither_overflow_nor_vanish():
  rows = signs(9, 4, seed=6)
  lengths = np.float32([1e-37, 1e-30, 1e-20, 1, 1e10, 1e20, 1e30, 1e37, 3e38])
  check_search(rows * lengths[:, None], k=8, block=(512, 4096))


def test_zero_rows_have_similarity_zero(selection):
  rows = signs(9, 4, seed=7)
  rows[[0, 4]] = 0
  rows[5] = -rows[6]
  check_search(rows, k=8, block=(2, 4))


def test_negative_zero_ties_with_zero(selection):
  # The first product underflows to -0.0, the second is 0.0.
  query = np.float32([[1e-30, 1, -0.0]])
  gallery = np.float32([[-1e-30, -0.0, 1], [0, 0, 0], [0, -1, 0]])
  assert retrieval.search(query, gallery, k=2)[1].tolist() == [[0, 1]]


def test_a_duplicate_does_not_hide_the_row_itself(selection):
  # Dropping the first neighbor would leave each second copy with itself.
  rows = np.repeat(signs(12, 16, seed=8), 2, axis=0)
  _, indices = retrieval.search(rows, k=1)
  np.testing.assert_array_equal(indices[:, 0], np.arange(24) ^ 1)


def test_recall_is_not_inflated_by_duplicates():
  # Pairs of equal pictures with different labels. A row's duplicate is its nearest
  # neighbor and is wrong; dropping the first neighbor finds the row itself in half of
  # the cases and scores about 0.5.
  rows = np.repeat(np.random.default_rng(0).normal(size=(60, 8)), 2, axis=0)
  labels = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 3))
  labels[1::2] = np.where(labels[1::2] == labels[::2], 99, labels[1::2])
  assert retrieval.evaluate(rows, labels, ks=(1,))["recall@1"] == 0.0


def test_jax_arrays_and_half_precision_are_taken(selection):
  rows = signs(20, 16, seed=9)
  expected = retrieval.search(rows, k=5)
  for kind in (jnp.float32, jnp.bfloat16, jnp.float16):
    found = retrieval.search(jnp.asarray(rows, kind), k=5)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_the_inputs_are_not_changed():
  rows = signs(8, 16, seed=9) * 3
  before = rows.copy()
  retrieval.search(rows, k=5)
  np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("block", [(1, 1), (3, 5), (512, 4096)])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_follow_their_definitions(block, seed, selection, monkeypatch):
  monkeypatch.setattr(retrieval, "_BLOCK", block)
  rows = signs(33, 4, seed)
  # Class sizes from 1 (lone, left out of every mean) to above the largest k.
  labels = np.random.default_rng(seed).integers(0, 12, 33) ** 2 // 9
  labels[seed] = 77
  expected = scores(rows, labels, ks=(1, 2, 4, 32))
  result = retrieval.evaluate(rows, labels, ks=(1, 2, 4, 32))
  assert result == pytest.approx(expected, abs=1e-12)
  assert all(type(value) is float for value in result.values())


@pytest.mark.parametrize("block", [(1, 1), (3, 5), (512, 4096)])
def test_metrics_against_a_separate_gallery(block, selection, monkeypatch):
  monkeypatch.setattr(retrieval, "_BLOCK", block)
  queries, gallery = signs(14, 16, seed=1), signs(29, 16, seed=2)
  labels = np.arange(14) % 7  # class 6 is not in the gallery
  gallery_labels = np.arange(29) % 6
  expected = scores(queries, labels, gallery, gallery_labels, ks=(1, 10, 29))
  result = retrieval.evaluate(queries, labels, gallery, gallery_labels, ks=(1, 10, 29))
  assert result == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
  ("correct", "r_precision", "map_at_r"),
  [([1], 0.1, 0.1), ([1, 10], 0.2, 0.12), ([1, 2], 0.2, 0.2), (range(1, 11), 1.0, 1.0)],
)
def test_the_papers_example_rankings(correct, r_precision, map_at_r):
  # Musgrave et al. 2020: R = 10, and these ranks of the first ten are correct.
  # The gallery lies at growing angles from the query, so its order is the ranking.
  angles = np.linspace(0.1, 1.5, 20)
  gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  gallery_labels = np.isin(np.arange(1, 21), correct).astype(int)
  gallery_labels[10 + len(correct) :] = 1
  query, label = np.eye(2)[:1], np.ones(1, int)
  result = retrieval.evaluate(query, label, gallery, gallery_labels, ks=(1,))
  expected = {"recall@1": 1.0, "map@r": map_at_r, "r_precision": r_precision}
  assert result == pytest.approx(expected)


@pytest.mark.parametrize("held", [1, 40, 2**22])
def test_huge_classes_shrink_the_block_of_queries(held, monkeypatch):
  monkeypatch.setattr(retrieval, "_NEIGHBORS_HELD", held)
  seen = []
  original = retrieval._select_on_host
  monkeypatch.setattr(
    retrieval,
    "_select_on_host",
    lambda queries, *args: seen.append(len(queries)) or original(queries, *args),
  )
  rows, labels = signs(30, 4, seed=3), np.arange(30) % 2
  result = retrieval.evaluate(rows, labels, ks=(1,))
  assert result == pytest.approx(scores(rows, labels, ks=(1,)), abs=1e-12)
  assert max(seen) <= max(1, held // 14)


def test_padding_labels_are_ignored():
  rows, labels = signs(30, 16, seed=4), np.arange(30) % 6
  gallery, gallery_labels = signs(25, 16, seed=5), np.arange(25) % 6
  expected_among = retrieval.evaluate(rows, labels)
  expected = retrieval.evaluate(rows, labels, gallery, gallery_labels)

  def padded(values, at, fill):
    return np.insert(values, at, fill, axis=0)

  # Padding may hold anything, also what is not a number.
  at = [0, 3, 3, 30]
  rows, labels = padded(rows, at, np.nan), padded(labels, at, -1)
  gallery, gallery_labels = padded(gallery, 7, rows[5]), padded(gallery_labels, 7, -2)
  assert retrieval.evaluate(rows, labels) == expected_among
  assert retrieval.evaluate(rows, labels, gallery, gallery_labels) == expected


def with_lone_rows_and_copies():
  """Real-valued rows; some lie twice, and the classes 6 to 9 have one row each."""
  rng = np.random.default_rng(3)
  rows = rng.normal(size=(40, 8)).astype(np.float32)
  rows[[4, 9, 22]] = rows[[17, 16, 3]]
  labels = np.concatenate([np.arange(36) % 6, np.arange(6, 10)])
  order = rng.permutation(40)
  return rows[order], labels[order]


@pytest.mark.parametrize("with_gallery", [False, True])
@pytest.mark.parametrize("k", [1, 5, 20])  # R is 5 among each other, 3 in the gallery
@pytest.mark.parametrize("held", [1, 40, 2**22])  # the block: single rows, few, all
def test_one_search_gives_what_two_give(with_gallery, k, held, selection, monkeypatch):
  monkeypatch.setattr(retrieval, "_NEIGHBORS_HELD", held)
  rows, labels = with_lone_rows_and_copies()
  gallery = (rows[:20] + rows[20:], np.arange(20) % 7) if with_gallery else (None, None)
  metrics, found = retrieval.evaluate_with_neighbors(
    rows, labels, *gallery, ks=(1, 2), k=k
  )
  assert metrics == retrieval.evaluate(rows, labels, *gallery, ks=(1, 2))
  expected = retrieval.search(rows, gallery[0], k=min(k, 20))
  np.testing.assert_array_equal(found.indices, expected.indices)
  np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
  assert found.similarities.dtype == np.float32 and found.indices.dtype == np.int32
  assert metrics == pytest.approx(scores(rows, labels, *gallery, ks=(1, 2)), abs=1e-12)


@pytest.mark.parametrize("with_gallery", [False, True])
def test_neighbors_count_the_rows_as_given_and_pass_padding_by(with_gallery):
  rows, labels = signs(30, 16, seed=4), np.arange(30) % 6
  gallery = (signs(25, 16, seed=5), np.arange(25) % 6) if with_gallery else ()
  at, gallery_at = [0, 3, 3, 30], [0, 7]
  padded = np.insert(rows, at, np.nan, axis=0), np.insert(labels, at, -1)
  where = np.flatnonzero(padded[1] >= 0)
  gallery_where = where
  padded_gallery = ()
  if with_gallery:
    padded_gallery = (
      np.insert(
        gallery[0], gallery_at, rows[:2], axis=0
      ),  # found by nobody, though near
      np.insert(gallery[1], gallery_at, -2),
    )
    gallery_where = np.flatnonzero(padded_gallery[1] >= 0)
  expected_metrics, expected = retrieval.evaluate_with_neighbors(
    rows, labels, *gallery, k=4
  )
  metrics, found = retrieval.evaluate_with_neighbors(*padded, *padded_gallery, k=4)
  assert metrics == expected_metrics
  np.testing.assert_array_equal(found.indices[where], gallery_where[expected.indices])
  np.testing.assert_array_equal(found.similarities[where], expected.similarities)
  padding = np.delete(np.arange(len(padded[1])), where)
  assert (found.indices[padding] == -1).all()
  assert (found.similarities[padding] == -np.inf).all()


def test_permuting_rows_changes_no_metric():
  rng = np.random.default_rng(0)
  rows, labels = rng.normal(size=(50, 8)), rng.integers(0, 9, 50)
  order = rng.permutation(50)
  expected = retrieval.evaluate(rows, labels)
  assert retrieval.evaluate(rows[order], labels[order]) == pytest.approx(expected)


def test_embeddings_that_equal_their_class_score_one():
  labels = np.arange(40) % 10
  result = retrieval.evaluate(np.eye(10)[labels], labels, ks=(1, 39))
  assert result == dict.fromkeys(("recall@1", "recall@39", "map@r", "r_precision"), 1.0)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"k": 6}, "between 1 and the 5 gallery rows.*got 6"),
    ({"k": 0}, "between 1 and the 5 gallery rows.*got 0"),
    ({"k": 8, "gallery": np.ones((7, 4))}, "between 1 and the 7 gallery rows.*got 8"),
    ({"k": 1, "block": (0, 4)}, "at least one row"),
    ({"k": 1, "queries": np.ones((0, 4))}, r"queries must be .*\(0, 4\)"),
    ({"k": 1, "queries": np.full((6, 4), 1e300)}, "queries row 0 is not finite"),
  ],
)
def test_search_names_what_does_not_fit(arguments, message):
  queries = arguments.pop("queries", np.ones((6, 4)))
  with pytest.raises(ValueError, match=message):
    retrieval.search(queries, **arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(bad):
  rows = np.ones((6, 4))
  rows[3, 2] = rows[5, 0] = bad
  with pytest.raises(ValueError, match="queries row 3 is not finite"):
    retrieval.search(rows, k=1)
  with pytest.raises(ValueError, match="gallery row 3 is not finite"):
    retrieval.search(np.ones((2, 4)), rows, k=1)


def test_evaluate_names_what_does_not_fit(monkeypatch):
  rows, labels = signs(6, 4, seed=0), np.array([0, 0, 1, 1, 2, 2])
  with pytest.raises(ValueError, match="the 5 gallery rows.*got 8"):
    retrieval.evaluate(rows, labels)
  with pytest.raises(ValueError, match="k must lie .* the 5 gallery rows.*got 6"):
    retrieval.evaluate_with_neighbors(rows, labels, ks=(1,), k=6)
  with pytest.raises(ValueError, match="none of 6 queries has its class"):
    retrieval.evaluate(rows, np.arange(6), ks=(1,))
  with pytest.raises(ValueError, match="gallery_labels go together"):
    retrieval.evaluate(rows, labels, rows, ks=(1,))
  with pytest.raises(ValueError, match="no row with a label"):
    retrieval.evaluate(rows, -np.ones(6, int), ks=(1,))
  # Without the shape checks that the tests add to every signature.
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
  with pytest.raises(ValueError, match="needs a label for each"):
    retrieval.evaluate(rows, labels[:5], ks=(1,))


def test_one_program_serves_all_blocks_and_holds_one(selection, monkeypatch):
  name = {"_select_on_host": "_similarities", "_select_on_device": "_merge_on_device"}
  program = getattr(retrieval, name[selection])
  program.clear_cache()
  calls = []

  def recorded(*args):
    calls.append(args)
    return program(*args)

  monkeypatch.setattr(retrieval, name[selection], recorded)
  rows = np.random.default_rng(0).normal(size=(203, 8))
  retrieval.search(rows, k=6, block=(20, 30))
  assert program._cache_size() == 1
  assert len(calls) == 11 * 7
  compiled = program.lower(*calls[0]).compile().as_text()
  shapes = re.findall(r"\b(?:f32|s32|pred)\[([\d,]+)\]", compiled)
  held = max(math.prod(map(int, shape.split(","))) for shape in shapes)
  assert 19 * 29 <= held <= 20 * (30 + 6)
