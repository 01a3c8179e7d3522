"""In-Shop Clothes Retrieval: a query of one garment against a gallery of all others.

Liu, Luo, Qiu, Wang, Tang, DeepFashion: Powering Robust Clothes Recognition and
Retrieval with Rich Annotations, CVPR 2016. Where a split has a gallery,
`experiments.run.testing` searches the queries in it.
"""

from ccl_jax.data.sources import published
from ccl_jax.data.sources.published import Listed

_LIST = "list_eval_partition.txt"
_HEADER = ["image_name", "item_id", "evaluation_status"]


class InShopRetrieval(published.Published):
  """In-Shop Clothes Retrieval, split by garment as its authors did.

  Example:
    >>> from ccl_jax.data.sources import inshop, published
    >>> benchmark = inshop.InShopRetrieval
    >>> print(benchmark.COUNTS["train"])  # classes, images
    (3997, 25882)
    >>> train, query, gallery = published.load(
    ...   benchmark, "datasets", images="inshop", classes=2
    ... )
    >>> print(query.num_classes, gallery.num_classes)  # of 2 first classes, for a trial
    2 2
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Fetch Img/img.zip and Eval/list_eval_partition.txt of the In-shop Clothes"
    " Retrieval Benchmark from the Chinese University of Hong Kong:"
    " https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html."
  )
  COUNTS = {"train": (3997, 25882), "query": (3985, 14218), "gallery": (3985, 12612)}
  ARCHIVES = ("img.zip", "Img/img.zip")
  FOLDERS = ("Img", "Eval", "img")

  def read_lists(self, store) -> published.Lists:
    lines = [line.split() for line in store.read(_LIST).decode().splitlines()]
    (count, header), rows = lines[:2], [line for line in lines[2:] if line]
    if header != _HEADER or count != [str(len(rows))]:
      raise ValueError(
        f"{_LIST} in {store.path} announces {' '.join(count)} rows of"
        f" {' '.join(header)!r} and has {len(rows)}; expected"
        f" {' '.join(_HEADER)!r}: it was altered or cut short, fetch it again"
      )
    lists: dict[str, list[Listed]] = {split: [] for split in self.COUNTS}
    for number, row in enumerate(rows, 3):
      if len(row) != 3 or row[2] not in lists or row[1] not in row[0].split("/"):
        raise ValueError(
          f"line {number} of {_LIST} in {store.path} is {' '.join(row)!r}; expected an"
          " image in a folder of its item, the item, and train, query or gallery: it"
          " was altered; fetch it again"
        )
      path, item, split = row
      lists[split].append(Listed(path, int(item.removeprefix("id_")), item))
    items = {s: {image.class_id for image in images} for s, images in lists.items()}
    if items["query"] != items["gallery"] or items["query"] & items["train"]:
      raise ValueError(
        f"{_LIST} in {store.path}: query and gallery must hold the same items, and"
        " train none of them; it was altered, fetch it again"
      )
    return lists
