"""CIFAR-10 with ConTeX: 10 classes of photos of 32 x 32.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol of the authors' code: two views, SGD, head, temperature, warm-up of 10 epochs;
how many epochs it takes is not public, and 1,000 (SupCon's) our choice.
Network: ResNet-50 with the stem for small images, as published; the dense layer of
2,048 between its pooling and the head is ours.
Command: python -m experiments.train --config=configs/cifar10.py \
  --workdir=runs/cifar10
Expected: not run.
Wall time: not measured.
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="tfds",
    tfds_name="cifar10",
    channels=3,
    views=2,
    view="simclr",
    model="resnet50",
    small_images=True,
    compute_dtype="bfloat16",
    dim=2048,
    projection=(2048, 128),
    loss="contex",
    temperature=0.1,
    optimizer="sgd",
    learning_rate=0.5,
    weight_decay=1e-4,
    batch_size=1024,
    validation_fraction=0.0,
    probe="sgd",
    warmup_fraction=0.01,
    steps=1000 * 50_000 // 1024,
    eval_every=5000,
    checkpoint_every=1000,
  )
