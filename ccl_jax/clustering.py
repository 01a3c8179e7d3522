"""How well k-means finds the classes again in embeddings: NMI and AMI."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score


def evaluate(
  embeddings: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], *, seed: int = 0
) -> dict[str, float]:
  r"""Clusters embeddings at unit length into as many groups as they have classes.

  .. math::
    \text{NMI} = \frac{2\, I(G; Y)}{H(G) + H(Y)} \qquad
    \text{AMI} = \frac{I - \mathbb{E} I}{(H(G) + H(Y)) / 2 - \mathbb{E} I}

  with G the groups, Y the classes, and the expectation over groups of the same sizes
  drawn at random. NMI rises with the number of classes whatever the embeddings are; AMI
  does not. One run of k-means, from k-means++ centers, is our choice; papers differ. It
  takes time and memory of the order of N x K.

  Args:
    embeddings: any length; a zero row stays zero.
    labels: class of each.
    seed: of k-means.

  Returns:
    Python floats under `nmi` and `ami`.

  Source: Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452 (NMI); Vinh, Epps,
  Bailey, JMLR 11, 2010 (AMI).
  """
  rows = np.asarray(embeddings, np.float32)
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows / np.where(lengths > 0, lengths, 1)
  count = len(np.unique(labels))
  make: Any = KMeans  # whose types are guessed from its defaults
  groups = make(count, n_init=1, random_state=seed).fit_predict(rows)
  return {
    "nmi": float(normalized_mutual_info_score(labels, groups)),
    "ami": float(adjusted_mutual_info_score(labels, groups)),
  }
