"""Datasets, splits by class, image views and batches; NumPy only.

`ccl_jax.data.sources` reads them: a folder of yours, or what others have published.
"""

from ccl_jax.data import (
  corrupt,
  draws,
  examples,
  pipeline,
  splits,
  turned_classes,
  views,
)
from ccl_jax.data.examples import Examples
from ccl_jax.data.pipeline import eval_batches, train_batches
from ccl_jax.data.splits import hold_out_classes

__all__ = [
  "Examples",
  "corrupt",
  "draws",
  "eval_batches",
  "examples",
  "hold_out_classes",
  "pipeline",
  "splits",
  "train_batches",
  "turned_classes",
  "views",
]
