"""CIFAR-100 with ConTeX: 100 classes of photos of 32 x 32.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol and network: those of configs/cifar10.py.
Command: python -m experiments.train --config=configs/cifar100.py \
  --workdir=runs/cifar100
Expected: not run.
Wall time: not measured.

The comparison is another task, which two CPU cores can train: retrieval over the 50
classes that are not trained on, by the small network of Glyphs, at equal steps.
Results: experiments/results/cifar100/README.md.
"""

from configs import base, cifar10
from configs.base import Config, Data
from configs.comparison import UNTUNED, UNTUNED_OURS, Comparison


def get_config() -> Config:
  return base.replace(cifar10.get_config(), {"data.tfds_name": "cifar100"})


def get_comparison() -> Comparison:
  """Seven methods, five epochs of 25,000 images each."""
  start = Config(
    steps=1000,
    eval_every=1000,
    data=Data(
      name="tfds",
      tfds_name="cifar100",
      channels=3,
      unseen_classes=True,
      validation_fraction=0.0,
      view="crop_and_flip",
    ),
  )
  return Comparison(
    methods={name: base.replace(start, m) for name, m in UNTUNED.items()},
    columns={"1,000 steps": {"steps": 1000}},
    metrics=("recall@1", "map@r"),
    ours=UNTUNED_OURS,
  )
