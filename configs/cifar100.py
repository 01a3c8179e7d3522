"""CIFAR-100 with ConTeX: 100 classes of photos of 32 x 32.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol and network: those of configs/cifar10.py.
Command: python -m experiments.train --config=configs/cifar100.py \
  --workdir=runs/cifar100
Expected: not run.
Wall time: not measured.
"""

from configs import base, cifar10
from configs.base import Config


def get_config() -> Config:
  return base.replace(cifar10.get_config(), {"data.tfds_name": "cifar100"})
