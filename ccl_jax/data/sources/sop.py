"""Stanford Online Products: 22,634 products; half of them are never trained on.

Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted Structured Feature
Embedding, CVPR 2016, arXiv 1511.06452.
"""

from ccl_jax.data.sources import published
from ccl_jax.data.sources.published import Listed

_LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
_CLASS_IDS = {"train": (1, 11318), "test": (11319, 22634)}
_HEADER = ["image_id", "class_id", "super_class_id", "path"]


class StanfordOnlineProductsZeroShot(published.Published):
  """Stanford Online Products, split by product as its authors did.

  Example:
    >>> from ccl_jax.data.sources import sop
    >>> print(sop.StanfordOnlineProductsZeroShot.COUNTS["train"])  # classes, images
    (11318, 59551)
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Fetch Stanford_Online_Products.zip (3,083,860,082 bytes) from Stanford:"
    " https://cvgl.stanford.edu/projects/lifted_struct/, or"
    " ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip."
  )
  COUNTS = {"train": (11318, 59551), "test": (11316, 60502)}
  ARCHIVES = ("Stanford_Online_Products.zip",)
  FOLDERS = ("Stanford_Online_Products",)
  PREPARED = "stanford_online_products"

  def read_lists(self, store) -> published.Lists:
    if isinstance(store, published.Prepared):
      lists = {split: [] for split in _LISTS}
      for split, name, record in store.rows():
        kind, number = int(record["super_class_id"]), int(record["class_id"]) + 1
        lists[split].append(Listed(name, number, f"{number} of kind {kind + 1}"))
    else:
      lists = {split: _read_list(store, name) for split, name in _LISTS.items()}
    for split, images in lists.items():
      ids = {image.class_id for image in images}
      first, last = _CLASS_IDS[split]
      if ids and not first <= min(ids) <= max(ids) <= last:
        raise ValueError(
          f"{store.path} has {split} classes {min(ids)} to {max(ids)}, and published"
          f" are {first} to {last}: they were numbered anew; fetch the archive again"
        )
    return lists


def _read_list(store: published.Store, name: str) -> list[Listed]:
  header, *rows = published.read_rows(store, name, 4)
  if header != _HEADER:
    raise ValueError(
      f"{name} in {store.path} opens with {' '.join(header)!r}, expected"
      f" {' '.join(_HEADER)!r}: fetch the archive again"
    )
  folders: dict[str, str] = {}  # super_class_id -> folder; `kinds` is the inverse
  kinds: dict[str, str] = {}
  for *_, kind, path in rows:
    folder = path.split("/")[0]
    known = folders.setdefault(kind, folder), kinds.setdefault(folder, kind)
    if known != (folder, kind) or not folder.endswith("_final"):
      raise ValueError(
        f"{name} in {store.path} puts {path} into super class {kind}, and other images"
        f" of {known[0]} into {known[1]}: it was altered; fetch the archive again"
      )
  return [
    Listed(path, int(number), f"{number} {path.split('_final/')[0]}")
    for _, number, _, path in rows
  ]
