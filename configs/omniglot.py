"""Omniglot: recognize characters of alphabets never seen in training.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458;
the protocols are those of few-shot papers, the settings ours.
Command: python -m experiments.train --config=configs/omniglot.py \
  --workdir=runs/omniglot
Expected: Recall@1 .855, MAP@R .545 on the 659 test characters.
Wall time: 11 minutes on two CPU cores.

964 characters train and 659 test, by TFDS's splits, and the result tells retrieval,
few-shot tasks over all test characters, and 20-way tasks within an alphabet.
`--config.data.lists=FOLDER --config.data.turned_classes=all` is the split that few-shot
papers share, in a folder with trainval.txt and test.txt, and quarter turns as classes.
"""

from configs.base import Config, Data, Loss, Model, Optimizer


def get_config() -> Config:
  return Config(
    steps=4000,
    eval_every=1000,
    checkpoint_every=1000,
    few_shot_tasks=1000,
    data=Data(
      name="omniglot",
      image_size=28,
      turned_classes="train",
      view="warp_far",
      test_views=8,
      validation_fraction=0.0,
    ),
    model=Model(name="conv_net", dim=64),
    loss=Loss(centers="bank"),
    optimizer=Optimizer(name="muon", learning_rate=0.01),
  )
