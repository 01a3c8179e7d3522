"""Datasets, splits by class, image views and batches; NumPy only."""

from ccl_jax.data import corrupt, draws, examples, pipeline, turned, views
from ccl_jax.data.examples import Examples, hold_out_classes
from ccl_jax.data.pipeline import eval_batches, train_batches

__all__ = [
  "Examples",
  "corrupt",
  "draws",
  "eval_batches",
  "examples",
  "hold_out_classes",
  "pipeline",
  "train_batches",
  "turned",
  "views",
]
