"""Losses as pure functions: `(embeddings [B,D], labels [B][, class vectors]) -> [B]`.

The caller averages. Embeddings and class vectors are scaled to unit length inside, and
everything is computed in float32. A negative label marks padding: its loss is 0, and
`mean_over_examples` does not count it. A label >= K gives NaN.
"""

from ccl_jax.labels import mean_over_examples as mean_over_examples
from ccl_jax.losses.center import center_contrastive as center_contrastive
from ccl_jax.losses.center import center_loss as center_loss
from ccl_jax.losses.center import contrastive_center as contrastive_center
from ccl_jax.losses.contex import contex as contex
from ccl_jax.losses.contex import nt_xent as nt_xent
from ccl_jax.losses.contex import supcon as supcon
from ccl_jax.losses.proxy import cosface as cosface
from ccl_jax.losses.proxy import normalized_softmax as normalized_softmax
