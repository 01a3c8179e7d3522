"""Caltech-101 with ConTeX: photos of 102 classes, the background's among them.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol of the authors' code: two views, SGD, head, temperature, warm-up of 10 epochs;
how many epochs it takes is not public, and 1,000 (SupCon's) our choice.
The class sizes differ; accuracy is over the images;
the rate is the authors' .5 at a batch of 1024, in proportion.
Network: ResNet-50 with the stem for large images, as published; the dense layer of
2,048 between its pooling and the head is ours.
Command: python -m experiments.train --config=configs/caltech101.py \
  --workdir=runs/caltech101
Expected: not run.
Wall time: not measured.
"""

from configs.base import Config, Data, Loss, Model, Optimizer


def get_config() -> Config:
  return Config(
    batch_size=256,
    probe="sgd",
    steps=1000 * 3_059 // 256,
    eval_every=2000,
    checkpoint_every=500,
    data=Data(
      name="tfds",
      tfds_name="caltech101",
      image_size=224,
      channels=3,
      num_workers=4,
      views=2,
      view="photo_color",
      validation_fraction=0.0,
    ),
    model=Model(
      name="resnet50", compute_dtype="bfloat16", dim=2048, projection=(2048, 128)
    ),
    loss=Loss(name="contex", temperature=0.1),
    optimizer=Optimizer(
      name="sgd", learning_rate=0.125, weight_decay=1e-4, warmup_fraction=0.01
    ),
  )
