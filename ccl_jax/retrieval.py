"""Exact cosine search and its metrics, by blocks: never N x N in memory.

A similarity is the float32 dot product of two rows scaled to unit length. Equal
similarities are ranked by gallery index, the lower first, within and across blocks. A
row searched among the others is excluded by its index: dropping the first neighbor
instead keeps the row itself, and loses a duplicate, wherever a duplicate ranks first.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ccl_jax.vectors import check_dims

Result = TypeVar("Result")


class Neighbors(NamedTuple):
  """The nearest rows of the gallery, the most similar first."""

  similarities: Float[np.ndarray, "Q k"]  # cosines, descending
  indices: Int[np.ndarray, "Q k"]  # of gallery rows; of equals, the lower first


# Rows of queries and of gallery compared at once, unless the caller says otherwise.
# Below 32 MB of similarities, malloc hands out the same memory again; on fresh pages a
# fifth of the search's time goes to page faults.
_BLOCK = (512, 12_288)
# Neighbors that one block of queries may hold; more of them, and the block shrinks.
_NEIGHBORS_HELD = 2**22
# Rows whose selection NumPy does at once: their temporaries fit the processor's cache.
_ROWS_IN_CACHE = 32
# Each worker holds a block of similarities of its own, so their number is bounded.
_MOST_WORKERS = 8


def search(
  queries: Float[Array | np.ndarray, "Q D"],
  gallery: Float[Array | np.ndarray, "N D"] | None = None,
  *,
  k: int,
  block: tuple[int, int] = _BLOCK,
) -> Neighbors:
  """Finds the k rows of the gallery that are most similar to each query.

  Args:
    queries: rows of any length and float type; a zero row has similarity 0 to all.
    gallery: rows to search; None searches each query among the other queries, itself
      excluded by index.
    k: neighbors a query, at most N (Q - 1 without a gallery).
    block: the most rows of queries and of gallery that are compared at once. A worker
      (one on an accelerator; one a CPU core otherwise, eight at most) holds about
      10 * block[0] * block[1] bytes. The result does not depend on it, beyond the
      rounding of a dot product.

  Returns:
    Cosine similarities, float32, descending; and gallery indices, int32. Equal
    similarities: the lower index first.

  Raises:
    ValueError: a shape, k or block that does not fit, or an embedding that is not
      finite in float32.
  """
  unit_queries = _unit_rows(queries, "queries")
  if gallery is None:
    unit_gallery, own = unit_queries, np.arange(len(unit_queries), dtype=np.int32)
  else:
    unit_gallery = _unit_rows(gallery, "gallery")
    check_dims(queries=unit_queries, gallery=unit_gallery)
    own = np.full(len(unit_queries), -1, np.int32)
  _check_k(k, len(unit_gallery) - (gallery is None), "k")

  similarities = np.empty((len(unit_queries), k), np.float32)
  indices = np.empty((len(unit_queries), k), np.int32)

  def store(rows: slice, found_similarities: np.ndarray, found: np.ndarray) -> None:
    similarities[rows], indices[rows] = found_similarities, found

  _for_each_block(store, unit_queries, own, unit_gallery, k=k, block=block)
  return Neighbors(similarities, indices)


def evaluate(
  queries: Float[Array | np.ndarray, "Q D"],
  query_labels: Int[Array | np.ndarray, " Q"],
  gallery: Float[Array | np.ndarray, "N D"] | None = None,
  gallery_labels: Int[Array | np.ndarray, " N"] | None = None,
  *,
  ks: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
  r"""Scores a ranking: recall@k for each k, MAP@R and R-precision, as fractions.

  .. math::
    \text{MAP@R} = \frac{1}{R} \sum_{i=1}^{R} \text{precision}@i \cdot \text{relevant}_i

  R is the number of gallery rows of the query's class, the query itself left out;
  recall@k is the share of queries with one of their class among the first k. Each is
  a mean over the queries that have R > 0: a class of one image can be found by nobody.
  The search goes as deep as the largest R or k asks; a few huge classes therefore cost
  time, not memory: the blocks of queries shrink, down to a full sort of single rows.

  Args:
    queries: embeddings, any length and float type.
    query_labels: class of each; rows with a label < 0 are padding and are ignored.
    gallery: rows to search; None searches each query among the other queries, itself
      excluded by index.
    gallery_labels: class of each; rows with a label < 0 are ignored.
    ks: depths of recall.

  Returns:
    Python floats in [0, 1] under `recall@K`, `map@r` and `r_precision`.

  Raises:
    ValueError: shapes that do not fit, a k larger than the gallery, an embedding that
      is not finite in float32, or no query with a match in the gallery.

  Source: Musgrave, Belongie, Lim, A Metric Learning Reality Check, ECCV 2020,
  arXiv 2003.08505.
  """
  return evaluate_with_neighbors(
    queries, query_labels, gallery, gallery_labels, ks=ks, k=1
  )[0]


def evaluate_with_neighbors(
  queries: Float[Array | np.ndarray, "Q D"],
  query_labels: Int[Array | np.ndarray, " Q"],
  gallery: Float[Array | np.ndarray, "N D"] | None = None,
  gallery_labels: Int[Array | np.ndarray, " N"] | None = None,
  *,
  ks: Sequence[int] = (1, 2, 4, 8),
  k: int,
) -> tuple[dict[str, float], Neighbors]:
  """What `evaluate` gives, and the k neighbors of each query, in one search.

  Queries without a match in the gallery have neighbors too, though no metric counts
  them. Padding is neither searched for nor found: a query with a label < 0 has the
  similarities -inf and the indices -1.

  Args:
    queries: embeddings, any length and float type.
    query_labels: class of each; rows with a label < 0 are padding.
    gallery: rows to search; None searches each query among the other queries, itself
      excluded by index.
    gallery_labels: class of each; rows with a label < 0 are padding.
    ks: depths of recall.
    k: neighbors a query, at most the rows that are no padding (one less without a
      gallery).

  Returns:
    The metrics of `evaluate`, and the neighbors of `search`, whose indices count the
    rows of the gallery as given, padding included.

  Raises:
    ValueError: as `evaluate` does.
  """
  if (gallery is None) != (gallery_labels is None):
    raise ValueError("gallery and gallery_labels go together; only one was given")
  among = gallery is None
  unit_queries, classes, query_rows = _labeled_rows(queries, query_labels, "queries")
  unit_gallery, gallery_classes, gallery_rows = unit_queries, classes, query_rows
  if gallery is not None and gallery_labels is not None:
    unit_gallery, gallery_classes, gallery_rows = _labeled_rows(
      gallery, gallery_labels, "gallery"
    )
    check_dims(queries=unit_queries, gallery=unit_gallery)
  for depth in ks:
    _check_k(depth, len(unit_gallery) - among, "each of ks")
  _check_k(k, len(unit_gallery) - among, "k")

  relevant = _class_sizes(classes, gallery_classes) - among
  if not (relevant > 0).any():
    raise ValueError(f"none of {len(classes)} queries has its class in the gallery")
  own = np.arange(len(classes)) if among else np.full(len(classes), -1)
  neighbors = Neighbors(
    np.full((len(queries), k), -np.inf, np.float32),
    np.full((len(queries), k), -1, np.int32),
  )

  def score(rows: slice, similarities: np.ndarray, found: np.ndarray) -> np.ndarray:
    at = query_rows[rows]
    neighbors.similarities[at] = similarities[:, :k]
    neighbors.indices[at] = gallery_rows[found[:, :k]]
    counted = relevant[rows] > 0
    hits = gallery_classes[found[counted]] == classes[rows][counted, None]
    return _scores(hits, relevant[rows][counted], ks)

  depth = max([*ks, k, int(relevant.max())])
  scores = _for_each_block(
    score, unit_queries, own, unit_gallery, k=depth, block=_BLOCK
  )
  # By rows, not by blocks, whose size hangs on k: a sum of floats hangs on its order.
  means = np.concatenate(scores).mean(axis=0)
  names = [*(f"recall@{k}" for k in ks), "map@r", "r_precision"]
  return dict(zip(names, means.tolist(), strict=True)), neighbors


def _scores(hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> np.ndarray:
  """Scores ranked hits bool[b, depth]: recall at each k, MAP@R, R-precision."""
  recall = [hits[:, :k].any(axis=1) for k in ks]
  hits = hits[:, : relevant.max(initial=0)]
  rank = np.arange(1, hits.shape[1] + 1)
  hits = hits & (rank <= relevant[:, None])
  precision = np.cumsum(hits, axis=1) / rank
  average_precision = np.sum(precision * hits, axis=1) / relevant
  return np.stack([*recall, average_precision, hits.sum(axis=1) / relevant], axis=1)


def _for_each_block(
  consume: Callable[[slice, np.ndarray, np.ndarray], Result],
  queries: np.ndarray,
  own: np.ndarray,
  gallery: np.ndarray,
  *,
  k: int,
  block: tuple[int, int],
) -> list[Result]:
  """Calls `consume(rows, similarities, indices)` for each block of unit queries.

  `own` holds the gallery index that each query must not find, or -1. Blocks are made
  equal before the last is padded, so that padding costs less than a row a block.
  """
  if min(block) < 1:
    raise ValueError(f"block must hold at least one row of each, got {block}")
  rows = _even(len(queries), min(block[0], max(1, _NEIGHBORS_HELD // k)))
  columns = _even(len(gallery), block[1])
  padded = np.pad(gallery, ((0, -len(gallery) % columns), (0, 0)))
  parts = [jnp.asarray(part) for part in padded.reshape(-1, columns, gallery.shape[1])]
  del padded
  on_host = next(iter(parts[0].devices())).platform == "cpu"
  select = _select_on_host if on_host else _select_on_device

  def one(start: int) -> Result:
    taken = slice(start, min(start + rows, len(queries)))
    missing = rows - (taken.stop - start)
    query = jnp.asarray(np.pad(queries[taken], ((0, missing), (0, 0))))
    skip = jnp.asarray(np.pad(own[taken], (0, missing)), jnp.int32)
    similarities, indices = select(query, skip, parts, len(gallery), k)
    size = taken.stop - start
    return consume(taken, similarities[:size], indices[:size])

  # On the CPU, one worker multiplies while another selects.
  workers = min(os.cpu_count() or 1, _MOST_WORKERS) if on_host else 1
  with ThreadPoolExecutor(workers) as pool:
    return list(pool.map(one, range(0, len(queries), rows)))


def _select_on_device(
  queries: Array, own: Array, parts: list[Array], count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
  shape = len(queries), k
  best = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
  for i, part in enumerate(parts):
    best = _merge_on_device(*best, queries, own, part, i * len(part), count)
  return np.asarray(best[0]), np.asarray(best[1])


def _select_on_host(
  queries: Array, own: Array, parts: list[Array], count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The same as `_select_on_device`, for the CPU, where XLA's top_k is slow.

  Works on keys that sort by (-similarity, index), so that any sort keeps the tie rule.
  """
  best = np.empty((len(queries), 0), np.int64)
  for i, part in enumerate(parts):
    offset = i * len(part)
    found = np.asarray(_similarities(queries, own, part, offset, count))
    cuts = range(_ROWS_IN_CACHE, len(best), _ROWS_IN_CACHE)
    pairs = zip(np.split(best, cuts), np.split(found, cuts), strict=True)
    best = np.concatenate([_merge_on_host(*pair, offset, k) for pair in pairs])
  return _similarity_of(best), (best & 0xFFFFFFFF).astype(np.int32)


@jax.jit
def _similarities(
  queries: Array, own: Array, part: Array, offset: Array | int, count: Array | int
) -> Array:
  """Cosines f32[b, columns]; -inf at padding and at a query's own index."""
  cosines = jnp.matmul(queries, part.T, precision=jax.lax.Precision.HIGHEST)
  column = (offset + jnp.arange(len(part)))[None, :]
  excluded = (column >= count) | (column == own[:, None])
  # -0.0 is equal to 0.0 and must tie with it, but sorts below it.
  cosines = jnp.where(cosines == 0, 0.0, cosines)
  return jnp.where(excluded, -jnp.inf, cosines)


@jax.jit
def _merge_on_device(
  best: Array,
  indices: Array,
  queries: Array,
  own: Array,
  part: Array,
  offset: Array | int,
  count: Array | int,
) -> tuple[Array, Array]:
  """Merges a part of the gallery into the best; ties keep the earlier, lower index."""
  found = _similarities(queries, own, part, offset, count)
  columns = jnp.broadcast_to(offset + jnp.arange(len(part)), found.shape)
  merged, at = jax.lax.top_k(jnp.concatenate([best, found], axis=1), best.shape[1])
  indices = jnp.concatenate([indices, columns.astype(jnp.int32)], axis=1)
  return merged, jnp.take_along_axis(indices, at, axis=1)


def _merge_on_host(
  best: np.ndarray, found: np.ndarray, offset: int, k: int
) -> np.ndarray:
  """Merges similarities [b, columns] into the best keys so far: sorted, i64[b, k]."""
  rows, columns = found.shape
  # Strictly above: a later column that ties with the last of the best ranks behind it.
  bound = _similarity_of(best[:, -1]) if best.size else _below_kth(found, k)
  flat = np.flatnonzero(found > bound[:, None])
  counts = np.diff(np.searchsorted(flat, np.arange(rows + 1) * columns))
  index = flat - np.repeat(np.arange(rows) * columns - offset, counts)

  merged, held = int(counts.max()), best.shape[1]
  keys = np.full((rows, max(k, held + merged)), _LAST_KEY)
  keys[:, :held] = best
  is_new = np.arange(merged) < counts[:, None]
  keys[:, held : held + merged][is_new] = _key(found.reshape(-1)[flat], index)
  keys.sort(axis=1)
  return keys[:, :k]


def _below_kth(found: np.ndarray, k: int) -> np.ndarray:
  """A bound f32[b] that at least k of each row exceed (all finite ones, if fewer).

  The k-th largest of the maxima of disjoint groups is no larger than the k-th largest
  of the row, hardly smaller where groups are many, and cheaper to find.
  """
  rows, columns = found.shape
  groups = columns // max(1, min(16, columns // (3 * k)))
  if groups <= k:
    return np.full(rows, -np.inf, np.float32)
  members = columns // groups
  maxima = found[:, : members * groups].reshape(rows, members, groups).max(axis=1)
  kth = np.partition(maxima, groups - k, axis=1)[:, groups - k]
  return np.nextafter(kth, np.float32(-np.inf))


def _key(similarity: np.ndarray | np.float32, index: np.ndarray | np.int64):
  """Packs float32 and index into int64 that sort by (-similarity, index)."""
  bits = similarity.view(np.int32)
  ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats in order, as integers
  return ((~ordered).astype(np.int64) << 32) | index


# Follows every real neighbor; takes the free places of a row that has fewer than k.
_LAST_KEY = _key(np.float32(-np.inf), np.int64(2**31 - 1))


def _similarity_of(key: np.ndarray) -> np.ndarray:
  ordered = ~(key >> 32).astype(np.int32)
  return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)


def _even(count: int, most: int) -> int:
  """Size of the fewest equal blocks of at most `most` rows."""
  return -(-count // -(-count // most))


def _unit_rows(rows: Array | np.ndarray, name: str) -> np.ndarray:
  if rows.ndim != 2 or len(rows) == 0:
    raise ValueError(f"{name} must be [rows, D] with a row at least, got {rows.shape}")
  with np.errstate(over="ignore"):  # a float64 too large is reported below
    rows = np.asarray(rows, np.float32)
  # The largest entry first: the square of 1e-30 or 1e30 is no float32.
  largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
  if not np.isfinite(largest).all():
    bad = int(np.argmin(np.isfinite(largest)))
    raise ValueError(f"{name} row {bad} is not finite in float32")
  rows = rows / np.where(largest > 0, largest, 1)[:, None]
  length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
  rows /= np.where(length > 0, length, 1)[:, None]
  return rows


def _labeled_rows(
  rows: Array | np.ndarray, labels: Array | np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Unit rows, classes and row numbers, without the rows whose label is padding."""
  labels = np.asarray(labels)
  if labels.shape != (len(rows),):
    raise ValueError(
      f"{name} has {len(rows)} rows and needs a label for each, got labels of shape"
      f" {labels.shape}"
    )
  kept = labels >= 0
  if not kept.any():
    raise ValueError(f"{name} has no row with a label >= 0")
  return _unit_rows(np.asarray(rows)[kept], name), labels[kept], np.flatnonzero(kept)


def _class_sizes(classes: np.ndarray, gallery_classes: np.ndarray) -> np.ndarray:
  """Number of gallery rows of each query's class."""
  present, sizes = np.unique(gallery_classes, return_counts=True)
  at = np.minimum(np.searchsorted(present, classes), len(present) - 1)
  return np.where(present[at] == classes, sizes[at], 0)


def _check_k(k: int, available: int, name: str) -> None:
  if not 1 <= k <= available:
    raise ValueError(
      f"{name} must lie between 1 and the {available} gallery rows a query can find,"
      f" got {k}"
    )
