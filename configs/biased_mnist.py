"""BiasedMNIST with ConTeX: the digit, or the color that goes along with it?

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152, which claims
+22.9% over the original contrastive losses; its rho and its table are not public.
Protocol of the data: Bahng et al., https://arxiv.org/abs/1910.02806; the settings are
those of configs/biased_glyphs.py.
Command: python -m experiments.train --config=configs/biased_mnist.py \
  --workdir=runs/biased_mnist
Expected: not run.
Wall time: not measured.
"""

from configs import base, biased_glyphs
from configs.base import Config


def get_config() -> Config:
  return base.replace(
    biased_glyphs.get_config(),
    {"data.name": "biased_mnist", "data.rho": 0.99, "steps": 20_000},
  )
