"""A file an experiment: the schema of `base.py` with a few fields replaced."""
