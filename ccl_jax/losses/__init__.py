"""Losses as pure functions: `(embeddings [B,D], labels [B][, class vectors]) -> [B]`.

The caller averages. Embeddings and class vectors are scaled to unit length inside, and
everything is computed in float32; matrix products have the bits of
`jax.default_matmul_precision`, fewer on TPUs and recent GPUs unless it is "float32".
A negative label marks padding: its loss is 0, and `mean_over_examples` does not count
it. A label >= K gives NaN, and labels of a type too narrow for K a ValueError.
"""

from ccl_jax.labels import mean_over_examples as mean_over_examples
from ccl_jax.losses.center import center_contrastive as center_contrastive
from ccl_jax.losses.center import center_loss as center_loss
from ccl_jax.losses.center import contrastive_center as contrastive_center
from ccl_jax.losses.pair import contrastive as contrastive
from ccl_jax.losses.pair import multi_similarity as multi_similarity
from ccl_jax.losses.pair import supcon as supcon
from ccl_jax.losses.pair import triplet as triplet
from ccl_jax.losses.proxy import arcface as arcface
from ccl_jax.losses.proxy import cosface as cosface
from ccl_jax.losses.proxy import normalized_softmax as normalized_softmax
from ccl_jax.losses.proxy import proxy_anchor as proxy_anchor
from ccl_jax.losses.proxy import proxy_nca as proxy_nca
from ccl_jax.losses.proxy import soft_triple as soft_triple
from ccl_jax.losses.view import contex as contex
from ccl_jax.losses.view import nt_xent as nt_xent
