"""UTKFace with ConTeX: the gender, where ethnicity may go along with it.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol and network, but for what stands below: those of configs/caltech101.py;
split, epochs (100) and the images as they are, none left out for bias, are ours.
Command: python -m experiments.train --config=configs/utkface.py \
  --workdir=runs/utkface --config.data.images=FOLDER
Expected: not run.
Wall time: not measured.
"""

from configs import base, caltech101
from configs.base import Config


def get_config() -> Config:
  return base.replace(
    caltech101.get_config(),
    {
      "data.name": "utkface",
      "data.tfds_name": None,
      "data.image_size": 64,
      "optimizer.warmup_fraction": 0.1,
      "steps": 100 * 18_964 // 256,
    },
  )
