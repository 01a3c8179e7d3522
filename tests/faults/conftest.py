"""The short runs of tests/experiments, to be disturbed."""

from tests.experiments.conftest import arguments, pictures

__all__ = ["arguments", "pictures"]
