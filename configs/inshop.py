"""In-Shop Clothes Retrieval: 14,218 photos of garments never trained on as queries.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458.
Command: python -m experiments.train --config=configs/inshop.py --workdir=runs/inshop \
  --config.images=FOLDER --config.weights=FILE
  FOLDER holds Eval/list_eval_partition.txt and Img/img.zip; FILE
  is a ResNet-50 of torchvision or timm (.safetensors or .pth)
Expected: Recall@1 .9231 with ResNet-50, says the paper; not verified here.
Wall time: not run.

The loss and the network are the paper's. Embedding size, views, batch, optimizer,
rates, steps, scale, margin and center weight are not public: what stands here is this
project's choice, to be tuned on the validation classes.
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="inshop",
    image_size=224,
    channels=3,
    shorter_side=256,
    view="photo",
    num_workers=8,
    model="resnet50",
    pooling="sum",
    frozen_batch_norm=True,
    compute_dtype="bfloat16",
    dim=512,
    learning_rate=1e-4,
    backbone_learning_rate=1e-4,
    frozen_backbone_fraction=0.025,  # one of 40 passes
    centers_learning_rate=1e-2,
    weight_decay=1e-4,
    # About 40 passes over the 23,300 images of the kept train classes.
    steps=7300,
    batch_size=128,
    eval_every=730,
    checkpoint_every=730,
    recall_at=(1, 10, 20, 30, 40, 50),
  )
