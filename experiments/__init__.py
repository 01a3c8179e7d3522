"""Command lines over `ccl_jax`: train, evaluate, retrieve, benchmarks."""
