"""Datasets, splits by class, image views and batches; NumPy only."""

from ccl_jax.data.examples import Examples, hold_out_classes
from ccl_jax.data.pipeline import eval_batches, train_batches

__all__ = ["Examples", "eval_batches", "hold_out_classes", "train_batches"]
