"""Glyphs: recognise characters never seen in training, across typefaces.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458;
the benchmark is this project's own.
Command: python -m experiments.train --config=configs/glyphs.py --workdir=runs/glyphs
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    scale=16.0,
    margin=0.2,
    center_weight=2.0,
    learning_rate=3e-3,
    centers_learning_rate=0.03,
    weight_decay=0.02,
    steps=3000,
    eval_every=500,
  )
