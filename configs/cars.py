"""Cars196: 98 models of cars never trained on, 8,131 photos.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458.
Command: python -m experiments.train --config=configs/cars.py --workdir=runs/cars \
  --config.data.images=FOLDER --config.model.weights=FILE
  FOLDER holds car_ims.tgz and cars_annos.mat, packed or unpacked; FILE
  is a ResNet-50 of torchvision or timm (.safetensors or .pth)
Expected: Recall@1 .9102 with ResNet-50, says the paper; not verified here.
Wall time: not run.

All that differs from configs/cub.py, which says what is whose, stands below.
"""

from configs import base, cub
from configs.base import Config


def get_config() -> Config:
  return base.replace(
    cub.get_config(),
    {"data.name": "cars", "steps": 2270, "eval_every": 227, "checkpoint_every": 227},
  )
