"""CUB-200-2011: 200 species of birds; half of them are never trained on.

Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset,
Caltech technical report CNS-TR-2011-001.
"""

from ccl_jax.data.sources import published
from ccl_jax.data.sources.published import Listed

_TRAIN_CLASSES = 100  # classes 1 to 100 train, 101 to 200 test
_OFFICIAL_TRAIN = 5994  # images of the split for classification, which is not used


class Cub2002011ZeroShot(published.Published):
  """CUB-200-2011, with classes 1 to 100 to train on and 101 to 200 to test.

  Example:
    >>> from ccl_jax.data.sources import cub
    >>> print(cub.Cub2002011ZeroShot.COUNTS["train"])  # classes, images
    (100, 5864)
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Fetch CUB_200_2011.tgz (1,150,585,339 bytes) from Caltech:"
    " https://data.caltech.edu/records/65de6-vp158."
  )
  COUNTS = {"train": (100, 5864), "test": (100, 5924)}
  ARCHIVES = ("CUB_200_2011.tgz",)
  FOLDERS = ("CUB_200_2011",)
  PREPARED = "caltech_birds2011"

  def read_lists(self, store) -> published.Lists:
    if isinstance(store, published.Prepared):
      images = [
        # The file's path holds the class: CUB_200_2011/images/001.Name/file.jpg.
        (name, _text(record["image/filename"]).split("/")[-2], int(record["label"]) + 1)
        for _, name, record in store.rows()
      ]
    else:
      images = _read_images(store)
    lists: dict[str, list[Listed]] = {"train": [], "test": []}
    for path, class_name, class_id in images:
      if not class_name.startswith(f"{class_id:03d}."):
        raise ValueError(
          f"{store.path} gives class {class_id} to {path} of folder {class_name}, which"
          " the authors number by the folder's own number: the classes were numbered"
          " anew; fetch the archive again"
        )
      split = "train" if class_id <= _TRAIN_CLASSES else "test"
      lists[split].append(Listed(path, class_id, class_name))
    return lists


def _read_images(store: published.Store) -> list[tuple[str, str, int]]:
  """(path, folder, class) of each image, from lists that must agree."""
  paths, classes, folders, halves = (
    dict(published.read_rows(store, name, 2))
    for name in (
      "images.txt",
      "image_class_labels.txt",
      "classes.txt",
      "train_test_split.txt",
    )
  )
  official = sum(half == "1" for half in halves.values())
  if not paths.keys() == classes.keys() == halves.keys() or official != _OFFICIAL_TRAIN:
    raise ValueError(
      f"the lists of {store.path} name {len(paths)} images, {len(classes)} labels and"
      f" {len(halves)} rows of a split with {official} to train on; expected the same"
      f" images in each, and {_OFFICIAL_TRAIN}: a list was altered; fetch the archive"
      " again"
    )
  for image, path in paths.items():
    if folders.get(classes[image]) != path.split("/")[0]:
      raise ValueError(
        f"{store.path} has {path} in class {classes[image]}, which classes.txt calls"
        f" {folders.get(classes[image])}: a list was altered or the classes numbered"
        " anew; fetch the archive again"
      )
  return [
    (f"images/{path}", path.split("/")[0], int(classes[image]))
    for image, path in paths.items()
  ]


def _text(value: str | bytes) -> str:
  return value.decode() if isinstance(value, bytes) else value
