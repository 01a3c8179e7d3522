"""Deep metric learning with class centers, as pure functions on arrays.

`import ccl_jax` brings the losses, the center bank, objectives, exact retrieval,
thresholds and few-shot tasks, and needs JAX alone, as do `ccl_jax.labels` and
`ccl_jax.vectors`. `ccl_jax.models`, `ccl_jax.data`, `ccl_jax.training`,
`ccl_jax.report` and `ccl_jax.probe` are imported when they are first used, and need
what `pip install "ccl_jax[training]"` adds.
"""

import importlib
from typing import Any

from ccl_jax import (
  accumulate,
  centers,
  class_mesh,
  few_shot,
  losses,
  objectives,
  retrieval,
  thresholds,
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
  "thresholds",
]

_HEAVY = ("data", "models", "probe", "report", "training")


def __getattr__(name: str) -> Any:
  if name not in _HEAVY:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  try:
    return importlib.import_module(f"{__name__}.{name}")
  except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    raise ModuleNotFoundError(
      f"ccl_jax.{name} needs {package}: pip install 'ccl_jax[training]'"
    ) from error
