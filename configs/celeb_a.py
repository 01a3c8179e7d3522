"""CelebA with ConTeX: is the hair blond, where that goes along with the gender?

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152
Protocol of the authors' code: two views, SGD, head, temperature, warm-up of 10 epochs;
the protocol of bias is Hong and Yang's (NeurIPS 2021); 10 epochs are our choice;
the rate is the authors' .5 at a batch of 1024, in proportion.
Network: ResNet-50 with the stem for large images, as published; the dense layer of
2,048 between its pooling and the head is ours.
Command: python -m experiments.train --config=configs/celeb_a.py \
  --workdir=runs/celeb_a
Expected: not run.
Wall time: not measured.
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="tfds",
    tfds_name="celeb_a",
    label="attributes/Blond_Hair",
    bias="attributes/Male",
    image_size=224,
    channels=3,
    num_workers=8,
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
    steps=10 * 162_770 // 256,
    eval_every=2000,
    checkpoint_every=500,
  )
