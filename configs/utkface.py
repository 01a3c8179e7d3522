"""UTKFace with ConTeX: the gender, where ethnicity may go along with it.

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol of the authors' code: two views, SGD, head, temperature, warm-up of 10 epochs;
split, epochs (100) and the images as they are, none left out for bias, are ours;
the rate is the authors' .5 at a batch of 1024, in proportion.
Network: ResNet-50 with the stem for large images, as published; the dense layer of
2,048 between its pooling and the head is ours.
Command: python -m experiments.train --config=configs/utkface.py \
  --workdir=runs/utkface --config.images=FOLDER
Expected: not run.
Wall time: not measured.
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="utkface",
    image_size=64,
    channels=3,
    num_workers=4,
    views=2,
    view="photo_color",
    model="resnet50",
    compute_dtype="bfloat16",
    dim=2048,
    projection=(2048, 128),
    loss="contex",
    temperature=0.1,
    optimizer="sgd",
    learning_rate=0.125,
    weight_decay=1e-4,
    batch_size=256,
    validation_fraction=0.0,
    probe="sgd",
    warmup_fraction=0.1,
    steps=100 * 18_964 // 256,
    eval_every=2000,
    checkpoint_every=500,
  )
