"""Where examples come from; `experiments.run.datasets` chooses by the config."""
