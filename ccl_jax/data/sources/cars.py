"""Cars196: 196 makes and models of cars; half of them are never trained on.

Krause, Stark, Deng, Fei-Fei, 3D Object Representations for Fine-Grained Categorization,
4th IEEE Workshop on 3D Representation and Recognition, ICCV 2013.
"""

import io
from typing import Any

import numpy as np
import scipy.io

from ccl_jax.data.sources import published
from ccl_jax.data.sources.published import Listed

_TRAIN_CLASSES = 98  # classes 1 to 98 train, 99 to 196 test
_WHOLE = "cars_annos.mat"  # describes car_ims.tgz
_HALVES = {  # describe cars_train.tgz and cars_test.tgz
  "cars_train": "cars_train_annos.mat",
  "cars_test": "cars_test_annos_withlabels.mat",
}
_META = "cars_meta.mat"  # class names for the two halves


class Cars196ZeroShot(published.Published):
  """Cars196, with classes 1 to 98 to train on and 99 to 196 to test.

  Both published layouts can be read: car_ims with cars_annos.mat, or cars_train and
  cars_test with their .mat files. Only the .mat files number the classes, since the
  names of class folders sort differently on different file systems.

  Example:
    >>> from ccl_jax.data.sources import cars
    >>> print(cars.Cars196ZeroShot.COUNTS["train"])  # classes, images
    (98, 8054)
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Stanford's page, http://ai.stanford.edu/~jkrause/cars/car_dataset.html, answers no"
    " more: fetch car_ims.tgz and cars_annos.mat from a mirror that kept them as they"
    " were (MD5 d5c8f0aa497503f355e17dc7886c3f14, b407c6086d669747186bd1d764ff9dbc), or"
    " cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat."
    " A mirror of class folders without the .mat files does not tell which class is"
    " which, and is not read."
  )
  COUNTS = {"train": (98, 8054), "test": (98, 8131)}
  ARCHIVES = ("car_ims.tgz", "cars_train.tgz", "cars_test.tgz", "car_devkit.tgz")
  FOLDERS = ("devkit", "cars_train", "cars_test")

  def read_lists(self, store) -> published.Lists:
    # Some mirrors have the lists of both layouts; the images decide between them.
    whole = store.place(_WHOLE) is not None
    if whole and store.place("car_ims/000001.jpg") is None:
      whole = any(store.place(name) is None for name in _HALVES.values())
    images = _read_whole(store) if whole else _read_halves(store)
    lists: dict[str, list[Listed]] = {"train": [], "test": []}
    for image in images:
      split = "train" if image.class_id <= _TRAIN_CLASSES else "test"
      lists[split].append(image)
    return lists


def _read_whole(store: published.Store) -> list[Listed]:
  content = _read_mat(store, _WHOLE, "annotations", "class_names")
  return _listed(store, _WHOLE, content, content["class_names"], "relative_im_path", "")


def _read_halves(store: published.Store) -> list[Listed]:
  if missing := [n for n in (_META, *_HALVES.values()) if store.place(n) is None]:
    raise FileNotFoundError(f"{store.path} holds neither {_WHOLE} nor {missing[0]}")
  names = _read_mat(store, _META, "class_names")["class_names"]
  return [
    image
    for folder, mat in _HALVES.items()
    for image in _listed(
      store, mat, _read_mat(store, mat, "annotations"), names, "fname", f"{folder}/"
    )
  ]


def _listed(
  store: published.Store,
  mat: str,
  content: dict[str, Any],
  names: np.ndarray,
  path_field: str,
  prefix: str,
) -> list[Listed]:
  annotations = content["annotations"]
  fields = annotations.dtype.names or ()
  for field in (path_field, "class"):
    if field not in fields:
      raise ValueError(
        f"annotations of {mat} in {store.path} have the fields {', '.join(fields)} and"
        f" no {field}: fetch the published file (of the halves, the one with labels)"
      )
  ids = annotations["class"].astype(int)
  if len(names) != 196 or not 1 <= ids.min() <= ids.max() <= 196:
    raise ValueError(
      f"{mat} in {store.path} has classes {ids.min()} to {ids.max()} and"
      f" {len(names)} names, expected 1 to 196: fetch the published file"
    )
  return [
    Listed(f"{prefix}{path}", int(number), str(names[number - 1]))
    for path, number in zip(annotations[path_field], ids, strict=True)
  ]


def _read_mat(store: published.Store, name: str, *variables: str) -> dict[str, Any]:
  try:
    content = scipy.io.loadmat(io.BytesIO(store.read(name)), squeeze_me=True)
  except FileNotFoundError:
    raise
  except Exception as error:  # scipy raises several kinds on a damaged file.
    raise ValueError(
      f"{name} in {store.path} is no .mat file that can be read ({error}): fetch it"
      " again"
    ) from error
  for variable in variables:
    if variable not in content:
      raise ValueError(f"{name} in {store.path} has no {variable}: fetch it again")
  return content
