"""What queries found, and which of them are worth a look."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ccl_jax.report.figures import Pictures


@dataclass(frozen=True)
class Neighbors:
  """Queries with their nearest gallery pictures, as `retrieval.search` finds them.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.neighbors import Neighbors
    >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 1])
    >>> neighbors = Neighbors(
    ...   query_images=images,
    ...   query_labels=labels,
    ...   gallery_images=images,
    ...   gallery_labels=labels,
    ...   indices=np.array([[1], [2], [3], [2]]),  # the second finds another class
    ...   similarities=np.array([[0.9], [0.8], [0.7], [0.7]]),
    ...   names={0: "cat", 1: "dog"},
    ... )
    >>> print(neighbors.names[int(neighbors.gallery_labels[2])])
    dog
  """

  query_images: Pictures  # Q
  query_labels: Int[np.ndarray, " Q"]
  gallery_images: Pictures  # N; the same object as query_images without a gallery
  gallery_labels: Int[np.ndarray, " N"]
  indices: Int[np.ndarray, "Q k"]  # rows of the gallery, nearest first
  similarities: Float[np.ndarray, "Q k"]
  names: Mapping[int, str]  # label -> class name; without a name the number is shown


@dataclass(frozen=True)
class Match:
  """A found picture: its gallery index, class, cosine, and whether it is right.

  Example:
    >>> from ccl_jax.report.neighbors import Match
    >>> print(Match(index=2, label=1, similarity=0.8, correct=False).similarity)
    0.8
  """

  index: int
  label: int
  similarity: float
  correct: bool


def matches(neighbors: Neighbors, query: int, *, most: int = 5) -> list[Match]:
  """The neighbors of a query, nearest first.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.neighbors import Neighbors, matches
    >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 1])
    >>> found, cosines = np.array([[1], [2], [3], [2]]), np.full((4, 1), 0.8)
    >>> names = {0: "cat", 1: "dog"}
    >>> neighbors = Neighbors(images, labels, images, labels, found, cosines, names)
    >>> print(matches(neighbors, 1))
    [Match(index=2, label=1, similarity=0.8, correct=False)]
  """
  label = int(neighbors.query_labels[query])
  found = neighbors.indices[query, :most].tolist()
  cosines = neighbors.similarities[query, :most].tolist()
  labels = [int(neighbors.gallery_labels[index]) for index in found]
  return [
    Match(index, other, cosine, other == label)
    for index, other, cosine in zip(found, labels, cosines, strict=True)
  ]


def random_queries(neighbors: Neighbors, count: int, *, seed: int = 0) -> list[int]:
  """Queries drawn at random among those with a match, whatever they found.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.neighbors import Neighbors, random_queries
    >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 1])
    >>> found, cosines = np.array([[1], [2], [3], [2]]), np.full((4, 1), 0.8)
    >>> names = {0: "cat", 1: "dog"}
    >>> neighbors = Neighbors(images, labels, images, labels, found, cosines, names)
    >>> print(random_queries(neighbors, 9))  # in order; there are but four
    [0, 1, 2, 3]
  """
  order = np.random.default_rng(seed).permutation(_answerable(neighbors))
  return sorted(order[:count].tolist())


def hardest_mistakes(neighbors: Neighbors, count: int) -> list[int]:
  """The queries with the most similar wrong answers, the most similar first.

  If several queries confuse the same two classes, only the first is kept.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.neighbors import Neighbors, hardest_mistakes
    >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 1])
    >>> found, cosines = np.array([[1], [2], [3], [2]]), np.full((4, 1), 0.8)
    >>> names = {0: "cat", 1: "dog"}
    >>> neighbors = Neighbors(images, labels, images, labels, found, cosines, names)
    >>> print(hardest_mistakes(neighbors, 9))
    [1]
  """
  answerable = _answerable(neighbors)
  own = neighbors.query_labels[answerable]
  found = neighbors.gallery_labels[neighbors.indices[answerable, 0]]
  order = np.argsort(-neighbors.similarities[answerable, 0], kind="stable")
  order = order[own[order] != found[order]]
  pairs = np.sort(np.stack([own[order], found[order]], axis=1), axis=1)
  _, first = np.unique(pairs, axis=0, return_index=True)
  return answerable[order[np.sort(first)[:count]]].tolist()


def _answerable(neighbors: Neighbors) -> np.ndarray:
  """Queries that have another picture of their class in the gallery."""
  among = neighbors.query_images is neighbors.gallery_images
  present, sizes = np.unique(neighbors.gallery_labels, return_counts=True)
  return np.flatnonzero(np.isin(neighbors.query_labels, present[sizes > int(among)]))
