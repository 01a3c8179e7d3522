"""Train state, step, placement on devices, loop, checkpoints and logs of a run."""
