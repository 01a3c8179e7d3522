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

from configs.base import Config, Data, Loss, Model, Optimizer


def get_config() -> Config:
  return Config(
    batch_size=1024,
    probe="sgd",
    steps=1000 * 50_000 // 1024,
    eval_every=5000,
    checkpoint_every=1000,
    data=Data(
      name="tfds",
      tfds_name="cifar10",
      channels=3,
      views=2,
      view="simclr",
      validation_fraction=0.0,
    ),
    model=Model(
      name="resnet50",
      small_images=True,
      compute_dtype="bfloat16",
      dim=2048,
      projection=(2048, 128),
    ),
    loss=Loss(name="contex", temperature=0.1),
    optimizer=Optimizer(
      name="sgd", learning_rate=0.5, weight_decay=1e-4, warmup_fraction=0.01
    ),
  )
