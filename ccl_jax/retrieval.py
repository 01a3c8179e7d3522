"""Exact cosine search and its metrics, by blocks: never N x N in memory.

A similarity is the float32 dot product of two rows scaled to unit length. Of equal
similarities, the lower gallery index ranks first, within and across blocks. A row that
is searched among the others is excluded by its index; to drop its first neighbor
instead would lose a duplicate that ranks first.
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

from ccl_jax.labels import labeled_rows
from ccl_jax.vectors import check_dims, unit_rows

Result = TypeVar("Result")


class Neighbors(NamedTuple):
  """The nearest rows of the gallery, the most similar first.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import retrieval
    >>> found = retrieval.search(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), k=1)
    >>> print(type(found).__name__, found.indices.ravel())
    Neighbors [2 2 0]
  """

  similarities: Float[np.ndarray, "Q k"]  # cosines, descending
  indices: Int[np.ndarray, "Q k"]  # gallery rows; the lower first if equally similar


# Rows of queries and of gallery compared at once: below 32 MB of similarities, malloc
# reuses its memory. On fresh pages, a fifth of the search's time goes to page faults.
_BLOCK = (512, 12_288)
# The most neighbors that one block of queries holds; for a large k it has fewer rows.
_NEIGHBORS_HELD = 2**22
# Rows that are merged at once: NumPy's temporaries for them fit the processor's cache.
_ROWS_IN_CACHE = 32
_MOST_WORKERS = 8  # each holds a block of similarities


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
      (one on an accelerator; one per CPU core otherwise, eight at most) holds about
      10 * block[0] * block[1] bytes. The result does not depend on the block, except
      for the rounding of a dot product.

  Returns:
    Cosine similarities, float32, descending; and gallery indices, int32.

  Raises:
    ValueError: if a shape, k or the block does not fit, or an embedding is not finite
      in float32.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import retrieval
    >>> gallery = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> similarities, rows = retrieval.search(np.array([[2.0, 1.0]]), gallery, k=2)
    >>> print(similarities.round(3), rows)
    [[0.949 0.894]] [[2 0]]
  """
  unit_queries = unit_rows(queries, "queries")
  if gallery is None:
    unit_gallery, own = unit_queries, np.arange(len(unit_queries), dtype=np.int32)
  else:
    unit_gallery = unit_rows(gallery, "gallery")
    check_dims(queries=unit_queries, gallery=unit_gallery)
    own = np.full(len(unit_queries), -1, np.int32)
  _check_k(k, len(unit_gallery) - (gallery is None), "k")

  similarities = np.empty((len(unit_queries), k), np.float32)
  indices = np.empty((len(unit_queries), k), np.int32)

  def store(rows: slice, cosines: np.ndarray, found: np.ndarray) -> None:
    similarities[rows], indices[rows] = cosines, found

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

  R is the number of gallery rows of the query's class, without the query itself;
  recall@k is the share of queries that have a row of their class among the first k.
  Each metric is a mean over the queries with R > 0, since no other query can find a
  match. The search goes as deep as the largest R or k. Huge classes cost time, not
  memory: the blocks of queries shrink, down to a full sort of single rows.

  Args:
    queries: embeddings, any length and float type.
    query_labels: class of each query; rows with a label < 0 are padding and ignored.
    gallery: rows to search; None searches each query among the other queries, itself
      excluded by index.
    gallery_labels: class of each gallery row; rows with a label < 0 are ignored.
    ks: depths of recall.

  Returns:
    Python floats in [0, 1] under `recall@K`, `map@r` and `r_precision`.

  Raises:
    ValueError: if shapes or a k do not fit the gallery, an embedding is not finite in
      float32, or no query has a match in the gallery.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import retrieval
    >>> embeddings = np.array([[1.0, 0.1], [1.0, 0.0], [0.1, 1.0], [1.0, 0.9]])
    >>> labels = np.array([0, 0, 1, 1])
    >>> print(retrieval.evaluate(embeddings, labels, ks=[1, 2]))
    {'recall@1': 0.75, 'recall@2': 0.75, 'map@r': 0.75, 'r_precision': 0.75}

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
  """The metrics of `evaluate` and the k neighbors of each query, by one search.

  Queries without a match in the gallery have neighbors too, though no metric counts
  them. A padding query (label < 0) has the similarities -inf and the indices -1;
  padding rows of the gallery are never found.

  Args:
    queries, query_labels, gallery, gallery_labels, ks: as in `evaluate`.
    k: neighbors of a query, at most the rows without padding that it can find.

  Returns:
    The metrics of `evaluate`, and the neighbors of `search`. Indices count the rows of
    the gallery as given, padding included.

  Raises:
    ValueError: as `evaluate` does.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import retrieval
    >>> embeddings = np.array([[1.0, 0.1], [1.0, 0.0], [0.1, 1.0], [1.0, 0.9]])
    >>> labels = np.array([0, 0, 1, 1])
    >>> score = retrieval.evaluate_with_neighbors
    >>> metrics, found = score(embeddings, labels, ks=[1], k=1)
    >>> print(metrics["recall@1"], found.indices.ravel())
    0.75 [1 0 3 0]
  """
  if (gallery is None) != (gallery_labels is None):
    raise ValueError("gallery and gallery_labels go together; only one was given")
  among = gallery is None
  searched = labeled_rows(queries, query_labels, "queries")
  unit_queries, classes, query_rows = searched
  if gallery is not None and gallery_labels is not None:
    searched = labeled_rows(gallery, gallery_labels, "gallery")
  unit_gallery, gallery_classes, gallery_rows = searched
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
  scores = _for_each_block(score, unit_queries, own, unit_gallery, k=depth)
  # Over rows: a sum of block sums would round differently for another size of block.
  means = np.concatenate(scores).mean(axis=0)
  names = [*(f"recall@{k}" for k in ks), "map@r", "r_precision"]
  return dict(zip(names, means.tolist(), strict=True)), neighbors


def _scores(hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> np.ndarray:
  """Scores [b, metrics] of ranked hits bool[b, depth]: recalls, MAP@R, R-precision."""
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
  block: tuple[int, int] = _BLOCK,
) -> list[Result]:
  """Calls `consume(rows, similarities, indices)` for each block of unit queries.

  `own` holds the gallery index that each query must not find, or -1. All blocks have
  one size, so that one program is compiled and the last block needs little padding.
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
    size = taken.stop - start
    query = jnp.asarray(np.pad(queries[taken], ((0, rows - size), (0, 0))))
    skip = jnp.asarray(np.pad(own[taken], (0, rows - size)), jnp.int32)
    similarities, indices = select(query, skip, parts, len(gallery), k)
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
  """Does what `_select_on_device` does, on the CPU, where XLA's top_k is slow.

  It sorts integers that hold similarity and index (`_key`), so ties rank by index.
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
  """Cosines f32[b, columns]; -inf for padding and for a query's own index."""
  cosines = jnp.matmul(queries, part.T, precision=jax.lax.Precision.HIGHEST)
  column = (offset + jnp.arange(len(part)))[None, :]
  excluded = (column >= count) | (column == own[:, None])
  # -0.0 must tie with 0.0, but its bits sort below.
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
  """Merges a part of the gallery into the best similarities and indices so far."""
  found = _similarities(queries, own, part, offset, count)
  columns = jnp.broadcast_to(offset + jnp.arange(len(part)), found.shape)
  # top_k takes the first of equal values, which has the lower index.
  merged, at = jax.lax.top_k(jnp.concatenate([best, found], axis=1), best.shape[1])
  indices = jnp.concatenate([indices, columns.astype(jnp.int32)], axis=1)
  return merged, jnp.take_along_axis(indices, at, axis=1)


def _merge_on_host(
  best: np.ndarray, found: np.ndarray, offset: int, k: int
) -> np.ndarray:
  """Merges similarities [b, columns] into the best keys so far: sorted, i64[b, k]."""
  rows, columns = found.shape
  # Only the few values above the bound are sorted; an equal one would rank behind it.
  bound = _similarity_of(best[:, -1]) if best.size else _below_kth(found, k)
  flat = np.flatnonzero(found > bound[:, None])
  counts = np.diff(np.searchsorted(flat, np.arange(rows + 1) * columns))
  index = flat - np.repeat(np.arange(rows) * columns - offset, counts)

  # Rows differ in their number of new keys; `_LAST_KEY` fills the shorter rows.
  merged, held = int(counts.max()), best.shape[1]
  keys = np.full((rows, max(k, held + merged)), _LAST_KEY)
  keys[:, :held] = best
  is_new = np.arange(merged) < counts[:, None]
  keys[:, held : held + merged][is_new] = _key(found.reshape(-1)[flat], index)
  keys.sort(axis=1)
  return keys[:, :k]


def _below_kth(found: np.ndarray, k: int) -> np.ndarray:
  """A bound f32[b] that at least k values of each row exceed, or all finite values.

  It lies just below the k-th largest of the maxima of disjoint groups. That is at most
  the k-th largest value of the row, hardly less where groups are many, and cheaper.
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
  """Packs similarity and index into an int64 that sorts by (-similarity, index)."""
  bits = similarity.view(np.int32)
  # Bits of positive floats sort as integers; those of negative ones must be flipped.
  ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
  return ((~ordered).astype(np.int64) << 32) | index


# Sorts after every real neighbor; fills the places of a row that has fewer than k.
_LAST_KEY = _key(np.float32(-np.inf), np.int64(2**31 - 1))


def _similarity_of(key: np.ndarray) -> np.ndarray:
  ordered = ~(key >> 32).astype(np.int32)
  return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)


def _even(count: int, most: int) -> int:
  """The size of equal blocks, as few as `most` rows per block allow."""
  return -(-count // -(-count // most))


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
