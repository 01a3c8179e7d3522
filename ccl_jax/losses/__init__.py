"""Losses as pure functions: `(embeddings [B,D], labels [B][, class vectors]) -> [B]`.

The batch is the global one, and the caller averages with `mean_over_examples`.
Embeddings and class vectors are scaled to unit length inside, and everything is
computed in float32; matrix products have the bits of `jax.default_matmul_precision`,
fewer on TPUs and recent GPUs unless it is "float32". A negative label marks padding:
its loss is 0, and `mean_over_examples` does not count it. A label >= K gives NaN, and
labels of a type too narrow for K a ValueError.
"""

from ccl_jax.labels import mean_over_examples
from ccl_jax.losses.blocks import Over
from ccl_jax.losses.center import center_contrastive, center_loss, contrastive_center
from ccl_jax.losses.pair import (
  contrastive,
  multi_similarity,
  prototypical,
  supcon,
  triplet,
)
from ccl_jax.losses.prefix import matryoshka
from ccl_jax.losses.proxy import (
  arcface,
  cosface,
  normalized_softmax,
  proxy_anchor,
  proxy_nca,
  soft_triple,
)
from ccl_jax.losses.view import contex, nt_xent

__all__ = [
  "Over",
  "arcface",
  "center_contrastive",
  "center_loss",
  "contex",
  "contrastive",
  "contrastive_center",
  "cosface",
  "matryoshka",
  "mean_over_examples",
  "multi_similarity",
  "normalized_softmax",
  "nt_xent",
  "prototypical",
  "proxy_anchor",
  "proxy_nca",
  "soft_triple",
  "supcon",
  "triplet",
]
