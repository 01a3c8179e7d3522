"""Datasets, splits by class, image views and batches; NumPy only."""

from ccl_jax.data import corrupt, draws, examples, pipeline, splits, turned, views
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
  "turned",
  "views",
]
