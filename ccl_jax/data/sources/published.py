"""What the builders of published benchmarks share: their checks, records and reading.

A builder copies the encoded images of the original archive, or of its extracted folder,
into records that have random access. Counts, lists and files are checked before the
first record is written, each image as it is copied: an archive that was altered, cut
short or numbered anew is refused here, not noticed in a result.
"""

import io
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from ccl_jax.data.examples import Examples
from ccl_jax.data.sources import tfds_images
from ccl_jax.data.sources.archives import Tree
from ccl_jax.data.sources.tfds_images import Records, open_records


class Listed(NamedTuple):
  """An image, as the lists of a benchmark have it.

  Example:
    >>> from ccl_jax.data.sources.published import Listed
    >>> print(Listed("images/001.Owl/1.jpg", 1, "001.Owl").class_name)
    001.Owl
  """

  path: str  # its published name
  class_id: int  # its published number; classes are ordered by it
  class_name: str


Lists = Mapping[str, Sequence[Listed]]  # split -> its images


@runtime_checkable
class Store(Protocol):
  """Where the images are: an `archives.Tree`, or `Prepared` records.

  Example:
    >>> import tempfile
    >>> from ccl_jax.data.sources import archives, published
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   print(isinstance(archives.Tree(folder), published.Store))
    ...
    True
  """

  path: pathlib.Path

  def place(self, name: str) -> tuple[int, int] | None: ...
  def read(self, name: str) -> bytes: ...


class Published(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A benchmark of published images, split by class.

  A subclass says what its archive is called, what it must hold, and how its lists read.
  Records keep the order in which the archive is read fastest; `info.metadata` holds the
  paths and labels of all, so that no image is read to know them.

  Example:
    >>> from ccl_jax.data.sources import published
    >>> class Birds(published.Published, skip_registration=True):
    ...   COUNTS = {"train": (1, 2), "test": (1, 2)}  # classes, images
    ...   ARCHIVES, FOLDERS = ("birds.zip",), ("birds",)
    ...   MANUAL_DOWNLOAD_INSTRUCTIONS = "Fetch birds.zip."
    ...
    ...   def read_lists(self, store):
    ...     lists = {"train": [], "test": []}
    ...     for split, path, number, name in published.read_rows(store, "list.txt", 4):
    ...       lists[split].append(published.Listed(path, int(number), name))
    ...     return lists
    ...
    >>> print(Birds.name)
    birds
  """

  VERSION = tfds.core.Version("1.0.0")
  # Finding it takes TFDS a package that it does not install, and only downloads use it.
  code_path: Any = None

  COUNTS: ClassVar[Mapping[str, tuple[int, int]]]  # split -> classes, images; in order
  ARCHIVES: ClassVar[Sequence[str]]  # see Tree
  FOLDERS: ClassVar[Sequence[str]]
  PREPARED: ClassVar[str | None] = None  # what tensorflow_datasets calls it

  def __init__(
    self,
    *,
    images: str | os.PathLike | None = None,
    classes: int | None = None,
    data_dir: str | os.PathLike | None = None,
  ):
    """Reads nothing yet: images are checked and copied when TFDS prepares it.

    Args:
      images: the original archive; or the folder that holds it, or what it unpacks to;
        or a folder that tensorflow_datasets prepared. None looks where TFDS keeps what
        is fetched by hand (downloads/manual below data_dir) and prepared.
      classes: keep the first so many classes of each split, for a trial. The lists are
        still checked whole; only images of these classes are asked for.
      data_dir: where TFDS keeps datasets; None is its own default.
    """
    if classes is not None and classes < 2:
      raise ValueError(f"classes={classes}: expected at least 2, or None for all")
    self._images, self._classes = images, classes
    config = None
    if classes is not None:
      config = tfds.core.BuilderConfig(name=f"first_{classes}_classes")
    super().__init__(data_dir=data_dir, config=config, file_format="array_record")
    # What TFDS passes to __init__ when a copy is unpickled.
    self._original_state = dict(images=images, classes=classes, data_dir=data_dir)

  def read_lists(self, store: Any) -> Lists:
    """The images of each split; to be defined by a subclass.

    Raises:
      FileNotFoundError: a list that is missing.
      ValueError: lists that contradict each other, or what is published.
    """
    raise NotImplementedError

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "label": tfds.features.ClassLabel(),
          "path": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
      # The records stay in the order of the metadata.
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    store = self._find_images(pathlib.Path(dl_manager.download_dir))
    try:
      lists = self.read_lists(store)
    except FileNotFoundError as error:
      raise FileNotFoundError(f"{error}. {self._what_to_fetch()}") from error
    _check_counts(lists, self.COUNTS)
    lists = {
      split: _first_classes(some, self._classes) for split, some in lists.items()
    }
    lists = {split: self._in_order(store, some) for split, some in lists.items()}
    names = {one.class_id: one.class_name for some in lists.values() for one in some}
    ids = sorted(names)
    labels = {class_id: label for label, class_id in enumerate(ids)}
    info: Any = self.info  # TFDS types its features as optional.
    info.features["label"].names = [names[class_id] for class_id in ids]
    info.metadata["paths"] = {k: [one.path for one in v] for k, v in lists.items()}
    info.metadata["labels"] = {
      split: [labels[one.class_id] for one in some] for split, some in lists.items()
    }
    return {
      split: self._generate_examples(store, some, labels)
      for split, some in lists.items()
    }

  def _generate_examples(self, store, listed, labels):
    for number, one in enumerate(listed):
      data = store.read(one.path)
      check_image(data, one.path)
      yield (
        number,
        {
          "image": io.BytesIO(data),
          "label": labels[one.class_id],
          "path": one.path,
        },
      )

  def _find_images(self, downloads: pathlib.Path) -> Store:
    """Where the user said; else what TFDS prepared, or was fetched by hand for it."""
    prepared = Prepared.find(self.PREPARED, self._images or self.data_dir_root)
    if prepared:
      return prepared
    path = pathlib.Path(self._images or downloads / "manual")
    try:
      return Tree(path, archives=self.ARCHIVES, folders=self.FOLDERS)
    except FileNotFoundError as error:
      raise FileNotFoundError(f"{error}. {self._what_to_fetch()}") from error

  def _what_to_fetch(self) -> str:
    return (
      f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS} Put it in a folder of yours, packed or"
      " unpacked, and name that folder: images=FOLDER (on the command line"
      " --config.data.images=FOLDER)"
    )

  def _in_order(self, store: Store, listed: Sequence[Listed]) -> list[Listed]:
    """Sorted by the order that reads fastest; refuses what is missing."""
    places = {one.path: store.place(one.path) for one in listed}
    missing = [path for path, place in places.items() if place is None]
    if missing:
      raise FileNotFoundError(
        f"{len(missing)} of {len(listed)} listed images are not in {store.path}, the"
        f" first is {missing[0]}: the archive is incomplete, or was not unpacked to its"
        f" end. {self._what_to_fetch()}"
      )
    return sorted(listed, key=lambda one: places[one.path] or (0, 0))


class Prepared:
  """The records that tensorflow_datasets made of a benchmark, as files by number.

  Example:
    >>> from ccl_jax.data.sources.published import Prepared
    >>> prepared = Prepared.find("mnist", "datasets")
    >>> split, name, record = next(prepared.rows())
    >>> print(split, name, sorted(record), prepared.read(name)[1:4])
    train train/0 ['image', 'label'] b'PNG'
  """

  def __init__(self, folder: pathlib.Path):
    self.path = folder
    tfds_images.check_features(folder)
    builder: Any = tfds.builder_from_directory(folder)
    if builder.info.file_format.value != "array_record":
      raise ValueError(
        f"{folder} holds {builder.info.file_format.value} records, which only"
        " TensorFlow reads. Where it is installed, convert them: tfds convert_format"
        f" --dataset_version_dir={folder} --out_dir=FOLDER"
        " --out_file_format=array_record; then give images=FOLDER, or give the original"
        " archive"
      )
    encoded = [
      name
      for name, feature in builder.info.features.items()
      if isinstance(feature, tfds.features.Image)
    ]
    skip = dict.fromkeys(encoded, tfds.decode.SkipDecoding())
    self._records = {
      split: builder.as_data_source(split, decoders=skip)
      for split in builder.info.splits
    }

  @classmethod
  def find(cls, name: str | None, root: str | os.PathLike) -> "Prepared | None":
    """The newest version of a dataset in a folder or in the data_dir above it."""
    if name is None:
      return None
    mark, root = "dataset_info.json", pathlib.Path(root).expanduser()
    for pattern in (mark, f"*/{mark}", f"{name}/*/{mark}"):
      for found in sorted(root.glob(pattern), reverse=True):
        if found.parent.parent.name == name or pattern == mark:
          return cls(found.parent)
    return None

  def rows(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(split, name, record) of every record; reads all images once."""
    for split, records in self._records.items():
      for number in range(len(records)):
        yield split, f"{split}/{number}", records[number]

  def place(self, name: str) -> tuple[int, int]:
    split, number = name.split("/")
    return list(self._records).index(split), int(number)

  def read(self, name: str) -> bytes:
    split, number = name.split("/")
    return self._records[split][int(number)]["image"]


def load(
  benchmark: type[Published],
  data_dir: str | os.PathLike | None = None,
  *,
  images: str | os.PathLike | None = None,
  classes: int | None = None,
  image_size: int | None = None,
  channels: int = 3,
) -> tuple[Examples, ...]:
  """The examples of each split, as published: train, test; or train, query, gallery.

  They come in the order of their paths, and are built first if they are not on disk.

  Args:
    benchmark: the builder's class, as `cub.Cub2002011ZeroShot`.
    data_dir: see `Published`, as images and classes.
    images: where the archive is.
    classes: keep the first so many of each split.
    image_size: side of the (square) images; see `Examples`.
    channels: 1 (gray) or 3 (RGB).

  Raises:
    FileNotFoundError: nothing is built, and images are missing: which, and from whom.
    ValueError: an archive or a list that is not what was published.

  Example:
    >>> from ccl_jax.data.sources import cub, published
    >>> train, test = published.load(
    ...   cub.Cub2002011ZeroShot, "datasets", images="cub", classes=2, image_size=64
    ... )
    >>> print(train.num_classes, train[0]["image"].shape)
    2 (64, 64, 3)
  """
  with tfds_images.named_when_damaged(data_dir, benchmark.name):
    builder = benchmark(images=images, classes=classes, data_dir=data_dir)
    tfds_images.prepare(builder)
    return _read_splits(builder, image_size, channels)


def _read_splits(
  builder: Published, image_size: int | None, channels: int
) -> tuple[Examples, ...]:
  info: Any = builder.info
  names = tuple(info.features["label"].names)

  def read(split: str) -> Examples:
    paths = tuple(info.metadata["paths"][split])
    labels = np.asarray(info.metadata["labels"][split], np.int32)
    order = np.asarray(sorted(range(len(paths)), key=paths.__getitem__), np.int64)
    examples = Examples(
      source=Records(open_records(builder, split), paths),
      indices=order,
      labels=labels[order],
      class_names=names,
      image_size=image_size,
      channels=channels,
    )
    return examples.subset(np.unique(labels))

  return tuple(map(read, builder.COUNTS))


def read_rows(store: Store, name: str, fields: int) -> list[list[str]]:
  """The fields of each line of a list, apart by white space.

  Raises:
    FileNotFoundError: no such list.
    ValueError: a line of another number of fields.

  Example:
    >>> import pathlib, tempfile
    >>> from ccl_jax.data.sources import archives, published
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   size = pathlib.Path(folder, "list.txt").write_text("1 owl\\n2 wren\\n")
    ...   print(published.read_rows(archives.Tree(folder), "list.txt", 2))
    ...
    [['1', 'owl'], ['2', 'wren']]
  """
  rows = [line.split() for line in store.read(name).decode().splitlines()]
  for number, row in enumerate(rows, 1):
    if len(row) != fields:
      raise ValueError(
        f"line {number} of {name} in {store.path} has {len(row)} fields, expected"
        f" {fields}: it was cut short or altered; fetch it again"
      )
  return rows


def check_image(data: bytes, path: str) -> None:
  """Refuses an image that does not decode.

  A JPEG whose last marker follows its last scan is whole, and is told from its header
  and that marker; anything else is decoded.

  Raises:
    ValueError: naming the image.

  Example:
    >>> from ccl_jax.data.sources.published import check_image
    >>> try:
    ...   check_image(b"no picture", "owl.jpg")
    ... except ValueError as error:
    ...   print(str(error)[:24], str(error)[-34:])
    ...
    owl.jpg does not decode  archive is damaged; fetch it again
  """
  try:
    with Image.open(io.BytesIO(data)) as picture:
      is_jpeg = picture.format == "JPEG"
      if not is_jpeg or data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        picture.load()
  except Exception as error:  # Pillow raises a dozen kinds on damaged files.
    raise ValueError(
      f"{path} does not decode ({error}): the archive is damaged; fetch it again"
    ) from error


def _check_counts(lists: Lists, expected: Mapping[str, tuple[int, int]]) -> None:
  found = {
    split: (len({one.class_id for one in some}), len(some))
    for split, some in lists.items()
  }
  if found != dict(expected):
    raise ValueError(
      f"the lists hold {_told(found)}; published are {_told(expected)}: a list was"
      " altered or cut short; fetch it again"
    )
  paths = Counter(one.path for some in lists.values() for one in some)
  path, times = paths.most_common(1)[0]
  if times > 1:
    raise ValueError(f"the lists name {path} {times} times: fetch them again")


def _told(counts: Mapping[str, tuple[int, int]]) -> str:
  return ", ".join(
    f"{split} {classes:,} classes, {images:,} images"
    for split, (classes, images) in counts.items()
  )


def _first_classes(listed: Sequence[Listed], classes: int | None) -> Sequence[Listed]:
  if classes is None:
    return listed
  kept = set(sorted({one.class_id for one in listed})[:classes])
  return [one for one in listed if one.class_id in kept]
