"""Deep metric learning with class centers, as pure functions on arrays.

`import ccl_jax` brings the losses, the center bank, objectives, exact retrieval and
few-shot tasks, and needs JAX alone; models, data, training and reports are imported by
name, and need what `pip install ccl_jax[training]` adds.
"""

from ccl_jax import (
  accumulate,
  centers,
  class_mesh,
  few_shot,
  losses,
  objectives,
  retrieval,
)
from ccl_jax.centers import CenterBank
from ccl_jax.labels import check_labels
from ccl_jax.objectives import center_contrastive_loss

__version__ = "0.1.0"

__all__ = [
  "CenterBank",
  "accumulate",
  "center_contrastive_loss",
  "centers",
  "check_labels",
  "class_mesh",
  "few_shot",
  "losses",
  "objectives",
  "retrieval",
]
