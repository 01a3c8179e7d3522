"""Deep metric learning with class centers, as pure functions on arrays.

`import ccl_jax` brings the losses, the center bank, objectives and exact retrieval, and
needs JAX alone; models, data, training and reports are imported by name.
"""

from ccl_jax import centers, class_mesh, losses, objectives, retrieval
from ccl_jax.centers import CenterBank
from ccl_jax.labels import check_labels
from ccl_jax.objectives import center_contrastive_loss

__all__ = [
  "CenterBank",
  "center_contrastive_loss",
  "centers",
  "check_labels",
  "class_mesh",
  "losses",
  "objectives",
  "retrieval",
]
