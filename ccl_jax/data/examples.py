"""Labeled images with random access, and their splits by class."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageOps

from ccl_jax.data.draws import Draws


@runtime_checkable
class Source(Protocol):
  """Random access to images.

  Example:
    >>> from ccl_jax.data.examples import Source
    >>> isinstance(["a.png", "b.png"], Source)  # whatever can be indexed
    True
  """

  def __getitem__(self, index: int, /) -> Any:
    """A dict whose "image" is encoded bytes, a path, or u8[H,W] or u8[H,W,C]."""


# Larger pictures are refused before they are decoded: 300 MB of RGB. Our choice.
MOST_PIXELS = 10**8


class UnreadableImage(ValueError):
  """A picture is missing, damaged or too large; the message names it.

  Example:
    >>> from ccl_jax.data.examples import UnreadableImage
    >>> print(issubclass(UnreadableImage, ValueError))
    True
  """


# Cuts an opened picture to a size at a random place, as `views.random_resized_crop`.
Crop = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
  """Images held in memory, as a source; or rows of embeddings, in memory or not.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data.examples import Decoded
    >>> print(Decoded(np.zeros((8, 4, 4, 1), np.uint8))[7]["image"].shape)
    (4, 4, 1)
  """

  images: np.ndarray  # u8[N,H,W,C], or floats [N,F]

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {"image": self.images[index]}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
  """N labeled images of K classes, decoded when they are read.

  Attributes:
    source: holds the images, in any format and size that Pillow reads.
    indices: i64[N], the index of each example in the source.
    labels: i32[N] in 0..K-1.
    class_names: K names.
    image_size: side of the images. An image of another size is resized so that its
      shorter side has this length, and cut to the central square; None: no change.
    channels: 1 (gray) or 3 (RGB).
    shorter_side: length of the shorter side after resizing, if it is not image_size;
      the central square of image_size is then cut out, as torchvision's Resize and
      CenterCrop do. The pixels are the same except for rounding; a JPEG that shrinks
      to half or less also differs, since it is decoded at a lower resolution.
    bias: i32[N] or None, a misleading attribute that often agrees with the label, such
      as the color of the background; never part of a batch.
    bias_names: names of the values of `bias`.
    groups: i32[N] or None, a number that pictures of one thing share, such as two
      warps of a drawing; None where each example shows a thing of its own.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data.examples import Decoded, Examples
    >>> images = np.zeros((8, 4, 4, 1), np.uint8)
    >>> examples = Examples(
    ...   source=Decoded(images),
    ...   indices=np.arange(8),
    ...   labels=np.repeat(np.arange(4, dtype=np.int32), 2),
    ...   class_names=("a", "b", "c", "d"),
    ...   channels=1,
    ... )
    >>> print(len(examples), examples.num_classes, examples[7]["label"])
    8 4 3
  """

  source: Source
  indices: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  image_size: int | None = None
  channels: int = 3
  shorter_side: int | None = None
  bias: np.ndarray | None = None
  bias_names: tuple[str, ...] = ()
  groups: np.ndarray | None = None

  def __post_init__(self):
    if self.shorter_side is not None and self.shorter_side < (self.image_size or 0):
      raise ValueError(
        f"shorter_side is {self.shorter_side}: give image_size, {self.image_size}, or"
        " more"
      )
    if self.channels not in (1, 3):
      raise ValueError(f"channels is {self.channels}: give 1 (gray) or 3 (RGB)")
    if self.indices.shape != self.labels.shape or self.labels.ndim != 1:
      raise ValueError(
        f"indices {self.indices.shape} and labels {self.labels.shape}: give two"
        " vectors of one length"
      )
    for name, values in (("bias", self.bias), ("groups", self.groups)):
      if values is not None and values.shape != self.labels.shape:
        raise ValueError(
          f"{name} {values.shape} and labels {self.labels.shape}: give the {name} of"
          " each example"
        )

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def ids(self) -> list[str]:
    """The path of each example if the source has paths, else its index there."""
    paths = getattr(self.source, "paths", None)
    return [str(i) if paths is None else paths[i] for i in self.indices.tolist()]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """{"image": u8[H,W,C], "label": i32}; or raises `UnreadableImage`."""
    with self._opened(index) as image:
      pixels = image if isinstance(image, np.ndarray) else self._pixels(image)
    return {"image": pixels, "label": self.labels[index]}

  @contextlib.contextmanager
  def _opened(self, index: int) -> Iterator[np.ndarray | Image.Image]:
    """An array as the source holds it, or an opened picture; errors name the image."""
    record = int(self.indices[index])
    image = self.source[record]["image"]
    try:
      if isinstance(image, np.ndarray):
        yield image
      else:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as it:
          if it.width * it.height > MOST_PIXELS:
            raise ValueError(
              f"{it.width} x {it.height} pixels are more than {MOST_PIXELS:,}"
            )
          yield it
    except Exception as error:  # Pillow raises a dozen kinds on damaged files.
      name = image if isinstance(image, str | os.PathLike) else f"record {record}"
      raise UnreadableImage(
        f"cannot read image {name} of class {self.class_names[self.labels[index]]}"
        f" ({error}): replace or delete it"
      ) from error

  def take(
    self,
    rows: np.ndarray,
    crop: Crop | None = None,
    rng: Draws | None = None,
  ) -> dict[str, np.ndarray]:
    """Reads a batch {"image": u8[B,H,W,C], "label": i32[B]}.

    Args:
      rows: i64[B], the rows of the examples to read.
      crop: cuts the images to their size, in place of image_size.
      rng: draws the seed of each crop.
    """
    if isinstance(self.source, Decoded) and crop is None:
      images = np.asarray(self.source.images[self.indices[rows]])
    else:
      if crop is None:
        decoded = [self[row]["image"] for row in rows.tolist()]
      else:
        assert rng is not None, "a crop draws from a generator"
        seeds = rng.integers(2**63, size=(len(rows),))
        decoded = [
          self._cropped(row, crop, np.random.default_rng(seed))
          for row, seed in zip(rows.tolist(), seeds, strict=True)
        ]
      shapes = {image.shape for image in decoded}
      if len(shapes) > 1:
        raise ValueError(
          f"images of shapes {sorted(shapes)} cannot share a batch: give image_size"
        )
      images = np.stack(decoded)
    return {"image": images, "label": self.labels[rows]}

  def decoded(self) -> "Examples":
    """The same examples with all their images decoded once, into one array."""
    if isinstance(self.source, Decoded):
      return self
    images = self.take(np.arange(len(self)))["image"]
    return dataclasses.replace(
      self, source=Decoded(images), indices=np.arange(len(self))
    )

  def _cropped(self, row: int, crop: Crop, rng: np.random.Generator) -> np.ndarray:
    with self._opened(row) as image:
      if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
      # The crop comes first: it is turned upright as the whole picture would be.
      cropped = ImageOps.exif_transpose(crop(image, rng)).convert(self._mode)
      return np.asarray(cropped).reshape(cropped.height, cropped.width, self.channels)

  def _pixels(self, picture: Image.Image) -> np.ndarray:
    size, side = self.image_size, self.shorter_side or self.image_size
    if side:  # a JPEG then decodes no more pixels than needed
      picture.draft(self._mode, (side, side))
    picture = ImageOps.exif_transpose(picture).convert(self._mode)
    if size and self.shorter_side:
      picture = _central(picture, size, self.shorter_side)
    elif size and picture.size != (size, size):
      picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[:, :, None] if self.channels == 1 else pixels

  @property
  def _mode(self) -> str:
    return "L" if self.channels == 1 else "RGB"

  def subset(self, classes: Sequence[int] | np.ndarray) -> "Examples":
    """The examples of the given classes, in order; `classes[i]` becomes class i."""
    places = np.full(self.num_classes, -1, np.int32)
    places[classes] = np.arange(len(classes))
    kept = self.rows(np.flatnonzero(places[self.labels] >= 0))
    return dataclasses.replace(
      kept,
      labels=places[kept.labels],
      class_names=tuple(self.class_names[c] for c in classes),
    )

  def rows(self, rows: np.ndarray) -> "Examples":
    """The examples of the given rows i64[n]; the classes stay the same."""
    return dataclasses.replace(
      self,
      indices=self.indices[rows],
      labels=self.labels[rows],
      bias=None if self.bias is None else self.bias[rows],
      groups=None if self.groups is None else self.groups[rows],
    )

  def rows_of_classes(self) -> list[np.ndarray]:
    """The rows i64[n] of each class, in order: K arrays, which may be empty."""
    counts = np.bincount(self.labels, minlength=self.num_classes)
    return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(counts)[:-1])

  def one_of_each_group(self) -> "Examples":
    """The first example of each group; all of them where there are no groups."""
    if self.groups is None:
      return self
    return self.rows(np.sort(np.unique(self.groups, return_index=True)[1]))


def from_arrays(
  images: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()
) -> Examples:
  """Examples that lie in memory.

  Args:
    images: u8[N,H,W,C].
    labels: [N], integers 0..K-1.
    class_names: K names; none: the numbers.

  Raises:
    ValueError: if there is not a label for each image.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples
    >>> data = examples.from_arrays(np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]))
    >>> print(len(data), data.class_names)
    2 ('0', '1')
  """
  return Examples(
    source=Decoded(images),
    indices=np.arange(len(images)),
    labels=np.asarray(labels, np.int32),
    class_names=tuple(class_names) or tuple(map(str, range(int(max(labels)) + 1))),
    channels=images.shape[-1],
  )


def _central(picture: Image.Image, size: int, side: int) -> Image.Image:
  """Resizes the shorter side to `side`, and cuts out the central square, in one call.

  `resize` maps a box of the picture to the result, so the square is mapped back.
  """
  before = np.array(picture.size)
  after = side * before // before.min()
  corner = np.array([round((length - size) / 2) for length in after.tolist()])
  box = np.concatenate([corner, corner + size]) * np.tile(before / after, 2)
  return picture.resize((size, size), Image.Resampling.BILINEAR, tuple(box.tolist()))
