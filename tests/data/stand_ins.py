"""Tiny datasets in the format that TFDS prepares, under the names of large ones."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

CLASSES = 4


def write(folder, name, version, *, size=32, channels=3, counts, celebrities=False):
  """Prepares `name` in a folder: `counts` images of each split, seeded.

  A class is a bright quarter of the picture; of celebrities, whether it is the upper
  half is an attribute, and whether it is the left half another.
  """
  features = tfds.features

  def generate(split, count):
    rng = np.random.default_rng(len(split))
    for i in range(count):
      label = i % CLASSES
      pixels = rng.integers(0, 60, (size, size, channels), np.uint8)
      y, x = label // 2 * size // 2, label % 2 * size // 2
      pixels[y : y + size // 2, x : x + size // 2] += 150
      encoded = io.BytesIO()
      Image.fromarray(pixels.squeeze()).save(encoded, "png")
      encoded.seek(0)
      if celebrities:
        ids = {"attributes": {"Blond_Hair": label < 2, "Male": label % 2 == 0}}
      else:
        ids = {"label": label}
      yield i, {"image": encoded, **ids}

  # Registering would refuse a second dataset of the name.
  with registered.skip_registration():

    class StandIn(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version(version)
      code_path = None

      def _info(self):
        flags = {"Blond_Hair": np.bool_, "Male": np.bool_}
        names = [str(c) for c in range(10)]
        ids = (
          {"attributes": flags}
          if celebrities
          else {"label": features.ClassLabel(names=names)}
        )
        image = features.Image(shape=(size, size, channels), encoding_format="png")
        return tfds.core.DatasetInfo(
          builder=self, features=features.FeaturesDict({"image": image, **ids})
        )

      def _split_generators(self, dl_manager):
        return {split: generate(split, count) for split, count in counts.items()}

      def _generate_examples(self):
        raise NotImplementedError

    StandIn.name = name
    StandIn.__module__ = "tests.data.stand_ins"
  StandIn(data_dir=folder, file_format="array_record").download_and_prepare()
