"""CelebA with ConTeX: is the hair blond, where that goes along with the gender?

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol and network, but for what stands below: those of configs/caltech101.py;
the protocol of bias is Hong and Yang's (NeurIPS 2021); 10 epochs are our choice.
Command: python -m experiments.train --config=configs/celeb_a.py \
  --workdir=runs/celeb_a
Expected: not run.
Wall time: not measured.
"""

from configs import base, caltech101
from configs.base import Config


def get_config() -> Config:
  return base.replace(
    caltech101.get_config(),
    {
      "data.tfds_name": "celeb_a",
      "data.label": "attributes/Blond_Hair",
      "data.bias": "attributes/Male",
      "data.num_workers": 8,
      "optimizer.warmup_fraction": 0.1,
      "steps": 10 * 162_770 // 256,
    },
  )
