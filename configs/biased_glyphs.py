"""BiasedGlyphs: does the network see the digit, or the colour that goes along with it?

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152; the data and
all settings but the loss are this project's own.
Command: python -m experiments.train --config=configs/biased_glyphs.py \
  --workdir=runs/biased_glyphs
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="biased_glyphs",
    rho=0.99,
    channels=3,
    views=2,
    dim=128,
    widths=(32, 64),
    projection=(128, 64),
    loss="contex",
    temperature=0.1,
    learning_rate=3e-3,
    weight_decay=0.02,
    warmup_fraction=0.1,
    batch_size=64,
    steps=500,
    eval_every=250,
    checkpoint_every=250,
    validation_fraction=0.0,
    probe="lbfgs",
    neighbours=10,
  )
