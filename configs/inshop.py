"""In-Shop Clothes Retrieval: 14,218 photos of garments never trained on as queries.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458.
Command: python -m experiments.train --config=configs/inshop.py --workdir=runs/inshop \
  --config.data.images=FOLDER --config.model.weights=FILE
  FOLDER holds Eval/list_eval_partition.txt and Img/img.zip; FILE
  is a ResNet-50 of torchvision or timm (.safetensors or .pth)
Expected: Recall@1 .9231 with ResNet-50, says the paper; not verified here.
Wall time: not run.

All that differs from configs/cub.py, which says what is whose, stands below.
"""

from configs import base, cub
from configs.base import Config


def get_config() -> Config:
  return base.replace(
    cub.get_config(),
    {
      "data.name": "inshop",
      # About 40 passes over the 23,300 images of the kept train classes.
      "steps": 7300,
      "eval_every": 730,
      "checkpoint_every": 730,
      "recall_at": (1, 10, 20, 30, 40, 50),
    },
  )
