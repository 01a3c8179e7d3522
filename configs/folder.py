"""Your own pictures: a folder with a subfolder of images for each class.

Command: python -m experiments.train --config=configs/folder.py --workdir=runs/mine \
  --config.data.images=FOLDER
Expected: the report says; half of the classes (or FOLDER/test) are test classes.
Wall time: not measured; it grows with the pictures, and the progress bar tells.
"""

from configs.base import Config, Data


def get_config() -> Config:
  return Config(
    batch_size=64,
    steps=2000,
    data=Data(name="folder", image_size=64, channels=3, view="crop_and_flip"),
  )
