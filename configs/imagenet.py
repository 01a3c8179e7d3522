"""ImageNet with ConTeX; TFDS wants the archives to be fetched by hand.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol and network, but for what stands below: those of configs/caltech101.py;
batch and rate here are ours, for 8 devices, and so are the 100 epochs.
Command: python -m experiments.train --config=configs/imagenet.py \
  --workdir=runs/imagenet
Expected: not run.
Wall time: not measured.
"""

from configs import base, caltech101
from configs.base import Config


def get_config() -> Config:
  return base.replace(
    caltech101.get_config(),
    {
      "data.tfds_name": "imagenet2012",
      "data.tfds_test": "validation",
      "data.num_workers": 16,
      "optimizer.learning_rate": 0.5,
      "batch_size": 1024,
      "optimizer.warmup_fraction": 0.1,
      "steps": 100 * 1_281_167 // 1024,
      "eval_every": 20000,
      "checkpoint_every": 1000,
    },
  )
