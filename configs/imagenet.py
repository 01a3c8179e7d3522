"""ImageNet with ConTeX; TFDS wants the archives to be fetched by hand.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol of the authors' code: two views, SGD, head, temperature, warm-up of 10 epochs;
batch and rate here are ours, for 8 devices, and so are the 100 epochs.
Network: ResNet-50 with the stem for large images, as published; the dense layer of
2,048 between its pooling and the head is ours.
Command: python -m experiments.train --config=configs/imagenet.py \
  --workdir=runs/imagenet
Expected: not run.
Wall time: not measured.
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="tfds",
    tfds_name="imagenet2012",
    tfds_test="validation",
    image_size=224,
    channels=3,
    num_workers=16,
    views=2,
    view="photo_color",
    model="resnet50",
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
    warmup_fraction=0.1,
    steps=100 * 1_281_167 // 1024,
    eval_every=20000,
    checkpoint_every=1000,
  )
