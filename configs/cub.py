"""CUB-200-2011: 100 species of birds never trained on, 5,924 photos.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458.
Command: python -m experiments.train --config=configs/cub.py --workdir=runs/cub \
  --config.data.images=FOLDER --config.model.weights=FILE
  FOLDER holds CUB_200_2011.tgz or what it unpacks to; FILE
  is a ResNet-50 of torchvision or timm (.safetensors or .pth)
Expected: Recall@1 .7345 with ResNet-50, says the paper; not verified here.
Wall time: not run.

The loss and the network are the paper's. Embedding size, views, batch, optimizer,
rates, steps, scale, margin and center weight are not public: what stands here is this
project's choice, to be tuned on the validation classes.
"""

from configs.base import Config, Data, Model, Optimizer


def get_config() -> Config:
  return Config(
    steps=1650,
    batch_size=128,
    eval_every=165,
    checkpoint_every=165,
    data=Data(
      name="cub",
      image_size=224,
      channels=3,
      shorter_side=256,
      view="photo",
      num_workers=8,
    ),
    model=Model(
      name="resnet50",
      pooling="sum",
      frozen_batch_norm=True,
      compute_dtype="bfloat16",
      dim=512,
    ),
    optimizer=Optimizer(
      learning_rate=1e-4,
      backbone_learning_rate=1e-4,
      frozen_backbone_fraction=0.025,
      centers_learning_rate=1e-2,
      weight_decay=1e-4,
    ),
  )
