"""Your own pictures: a folder with a subfolder of images for each class.

Command: python -m experiments.train --config=configs/folder.py --workdir=runs/mine \
  --config.images=FOLDER
Expected: the report says; half of the classes (or FOLDER/test) are test classes.
Wall time: about 20 ms a step of 128 pictures of 64 x 64 on 2 CPU cores, and their
decoding.
"""

from configs.base import Config


def get_config() -> Config:
  return Config(
    dataset="folder",
    image_size=64,
    channels=3,
    view="crop_and_flip",
    batch_size=64,
    steps=2000,
  )
