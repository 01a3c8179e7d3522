"""Random training views, as functions of a batch of uint8 images.

A view maps (images u8[B,H,W,C], rng) to images of the same shape. It draws with
`size=(B, ...)`, given by name and a row per image: a process that holds a part of a
batch then draws the rows of that part (see `draws`). The names that a config gives to
views stand in `experiments.run.assemble.VIEWS`.

`random_resized_crop` is none of them: it cuts one photograph, of any size, while it is
decoded, and so makes the batch that views change.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from ccl_jax.data.draws import Draws

View = Callable[[np.ndarray, Draws], np.ndarray]


def chain(*views: View) -> View:
  """The view that applies several, first to last.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> view = views.chain(views.flip, views.noise)
    >>> print(view(images, rng).shape)
    (2, 8, 8, 3)
  """

  def view(images: np.ndarray, rng: Draws) -> np.ndarray:
    for one in views:
      images = one(images, rng)
    return images

  return view


def warp(
  images: np.ndarray,
  rng: Draws,
  *,
  rotation: float = 0.1,
  log_scale: float = 0.075,
  shear: float = 0.1,
  shift: float = 0.03,
) -> np.ndarray:
  """Turns, scales, shears and moves every image by its own uniform draw.

  Args:
    images: u8[B,H,W,C].
    rng: source of the draws.
    rotation: at most, in radians.
    log_scale: at most; 0.1 scales by 0.90 to 1.11.
    shear: at most, in pixels to the side per pixel down.
    shift: at most, along each axis, as a part of the longer side.

  Returns:
    u8[B,H,W,C]; what comes in from outside repeats the edge.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> print(views.warp(images, rng, rotation=0.2).shape)
    (2, 8, 8, 3)
  """
  draws = rng.uniform(-1, 1, size=(len(images), 5))
  matrices = warp_matrices(
    rotation=rotation * draws[:, 0],
    log_scale=log_scale * draws[:, 1],
    shear=shear * draws[:, 2],
    shift=shift * max(images.shape[1:3]) * draws[:, 3:],
  )
  return affine(images, matrices)


def contrast(images: np.ndarray, rng: Draws, *, strength: float = 0.3) -> np.ndarray:
  """Multiplies every u8[H,W,C] by its own factor in 1 +- strength, and clips.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> print(views.contrast(images, rng)[:, 0, 0, 0])
    [108  85]
  """
  factors = rng.uniform(1 - strength, 1 + strength, size=(len(images), 1, 1, 1))
  # 24.8 fixed point: integers are several times as fast as a detour through floats.
  scaled = images * (factors * 256).astype(np.uint32) >> 8
  return np.minimum(scaled, 255).astype(np.uint8)


def noise(images: np.ndarray, rng: Draws, *, sigma: float = 0.05) -> np.ndarray:
  """Adds Gaussian noise of a standard deviation in parts of the full range.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> print(views.noise(images, rng, sigma=0.05).std().round(1))
    12.6
  """
  normal = rng.standard_normal(size=images.shape, dtype=np.float32)
  normal *= np.float32(255 * sigma)
  normal += images
  normal += np.float32(0.5)
  return np.clip(normal, 0, 255, out=normal).astype(np.uint8)


def flip(images: np.ndarray, rng: Draws) -> np.ndarray:
  """Mirrors each u8[H,W,C] left to right, with probability one half.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> print((views.flip(images, rng) == images).all())  # these look the same mirrored
    True
  """
  mirrored = rng.random(size=(len(images), 1, 1, 1)) < 0.5
  return np.where(mirrored, images[:, :, ::-1], images)


def crop_and_flip(
  images: np.ndarray, rng: Draws, *, smallest: float = 0.2
) -> np.ndarray:
  """Cuts a random part out of each photo, resizes it to the whole, and may mirror it.

  Args:
    images: u8[B,H,W,C].
    rng: source of the draws.
    smallest: the part's area is uniform in smallest..1 of the image's; its aspect
      ratio is within 3/4..4/3, log-uniform (the usual random resized crop).

  Returns:
    u8[B,H,W,C].

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> print(views.crop_and_flip(images, rng, smallest=0.5).shape)
    (2, 8, 8, 3)
  """
  height, width = images.shape[1:3]
  draws = rng.random(size=(len(images), 4))
  area = smallest + (1 - smallest) * draws[:, 0]
  ratio = np.exp(np.log(4 / 3) * (2 * draws[:, 1] - 1))
  # Parts of the width and of the height; a part that would stick out is cut to fit.
  parts = np.minimum(np.sqrt(np.stack([area * ratio, area / ratio], 1)), 1)
  matrices = np.zeros((len(images), 2, 3))
  matrices[:, 0, 0], matrices[:, 1, 1] = parts.T
  matrices[:, :, 2] = (1 - parts) * (draws[:, 2:] - 0.5) * (width, height)
  return flip(affine(images, matrices), rng)


def color_jitter(
  images: np.ndarray,
  rng: Draws,
  *,
  brightness: float = 0.4,
  contrast: float = 0.4,
  saturation: float = 0.4,
  hue: float = 0.1,
  probability: float = 0.8,
) -> np.ndarray:
  """Changes the colors of some images, by Pillow and in the manner of torchvision.

  The four changes come in a random order. Brightness, contrast and saturation are
  `ImageEnhance`'s, by a factor in 1 +- strength; the hue is turned in Pillow's HSV, in
  steps of 1/256. The defaults are those of contrastive learning.

  Args:
    images: u8[B,H,W,C]; gray ones have no saturation and no hue to change.
    rng: source of the draws.
    brightness: strength, in 0..1.
    contrast: strength, in 0..1.
    saturation: strength, in 0..1.
    hue: at most, in turns of the color wheel, in 0..1/2.
    probability: of an image to be changed at all.

  Returns:
    u8[B,H,W,C].

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> print(views.color_jitter(images, rng).shape)
    (2, 8, 8, 3)
  """
  strengths = (brightness, contrast, saturation, hue)
  draws = rng.uniform(-1, 1, size=(len(images), 4)) * strengths
  orders = rng.random(size=(len(images), 4)).argsort(axis=1)
  chosen = rng.random(size=(len(images),)) < probability
  changed = images.copy()
  for row in np.flatnonzero(chosen):
    picture = _picture(images[row])
    for change in orders[row]:
      if strengths[change]:
        picture = _COLOR_CHANGES[change](picture, draws[row, change])
    changed[row] = np.asarray(picture).reshape(images[row].shape)
  return changed


def _turn_hue(picture: Image.Image, turns: float) -> Image.Image:
  if picture.mode == "L":
    return picture
  hue, *others = picture.convert("HSV").split()
  # By 255, though a turn has 256 steps: so does torchvision.
  turned = hue.point([(h + int(turns * 255)) % 256 for h in range(256)])
  return Image.merge("HSV", [turned, *others]).convert("RGB")


_COLOR_CHANGES = (
  lambda picture, change: ImageEnhance.Brightness(picture).enhance(1 + change),
  lambda picture, change: ImageEnhance.Contrast(picture).enhance(1 + change),
  lambda picture, change: ImageEnhance.Color(picture).enhance(1 + change),
  _turn_hue,
)


def gray(images: np.ndarray, rng: Draws, *, probability: float = 0.2) -> np.ndarray:
  """Takes the colors out of some u8[B,H,W,C], by the luma of ITU-R BT.601.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> images[..., 0] = 200
    >>> print(views.gray(images, rng, probability=1.0)[0, 0, 0])
    [130 130 130]
  """
  chosen = rng.random(size=(len(images),)) < probability
  if images.shape[-1] == 1:
    return images
  changed = images.copy()
  luma = images[chosen].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
  changed[chosen] = (luma + 0.5).astype(np.uint8)[..., None]
  return changed


def _picture(image: np.ndarray) -> Image.Image:
  return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def random_resized_crop(
  picture: Image.Image,
  rng: np.random.Generator,
  *,
  size: int,
  smallest: float = 0.2,
) -> Image.Image:
  """Cuts a random part out of one picture and resizes it to a square.

  The box is drawn as torchvision's RandomResizedCrop does, and resized by the same
  filter (bilinear, over all pixels that shrink into one). The numbers differ in two
  ways: pixels beside the box count at its edge, and a JPEG that is shrunk to half or
  less is decoded at a half, a quarter or an eighth of its size, which is faster.

  Args:
    picture: opened, best not decoded yet.
    rng: source of the draws, of this picture alone.
    size: side of the result.
    smallest: the part's area is uniform in smallest..1 of the picture's; its aspect
      ratio is within 3/4..4/3, log-uniform.

  Example:
    >>> import numpy as np
    >>> from PIL import Image
    >>> from ccl_jax.data import views
    >>> picture = Image.new("RGB", (40, 30))
    >>> cut = views.random_resized_crop(picture, np.random.default_rng(0), size=16)
    >>> print(cut.size)
    (16, 16)
  """
  width, height = picture.size
  left, top, right, bottom = _random_box(width, height, rng, smallest)
  across, down = size / (right - left), size / (bottom - top)
  picture.draft(None, (math.ceil(width * across), math.ceil(height * down)))
  if picture.mode not in ("L", "RGB"):
    picture = picture.convert("RGB")
  across, down = picture.width / width, picture.height / height
  box = (left * across, top * down, right * across, bottom * down)
  return picture.resize((size, size), Image.Resampling.BILINEAR, box)


def _random_box(
  width: int, height: int, rng: np.random.Generator, smallest: float
) -> tuple[int, int, int, int]:
  """Left, top, right, bottom of a part; the middle where ten draws stick out."""
  for _ in range(10):
    area = width * height * rng.uniform(smallest, 1)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < across <= width and 0 < down <= height:
      left = int(rng.integers(width - across + 1))
      top = int(rng.integers(height - down + 1))
      return left, top, left + across, top + down
  across = min(width, round(height * 4 / 3))
  down = min(height, round(width * 4 / 3))
  left, top = (width - across) // 2, (height - down) // 2
  return left, top, left + across, top + down


def warp_matrices(
  rotation: np.ndarray, log_scale: np.ndarray, shear: np.ndarray, shift: np.ndarray
) -> np.ndarray:
  """The maps of `affine` that shear, scale, turn and then move a picture.

  Args:
    rotation: [B], radians.
    log_scale: [B]; positive enlarges.
    shear: [B], pixels to the side per pixel down.
    shift: [B,2], pixels right and down.

  Returns:
    f64[B,2,3], from output to input, so each step is undone, the last one first.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> none, right = np.zeros(1), np.array([[2.0, 0.0]])
    >>> print(views.warp_matrices(none, none, none, right)[0])
    [[ 1.  0. -2.]
     [ 0.  1.  0.]]
  """
  cos, sin = np.cos(rotation), np.sin(rotation)
  turn_back = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
  unshear = np.zeros_like(turn_back)
  unshear[:, 0, 0] = unshear[:, 1, 1] = 1
  unshear[:, 0, 1] = -shear
  linear = unshear @ turn_back * np.exp(-log_scale)[:, None, None]
  return np.concatenate([linear, -linear @ shift[:, :, None]], axis=2)


def affine(
  images: np.ndarray, matrices: np.ndarray, size: int | None = None
) -> np.ndarray:
  """Resamples every image through its own affine map, bilinearly.

  Args:
    images: u8[B,H,W,C], sides below 8,192.
    matrices: f32[B,2,3]. Each maps an output position (x, y, 1), in pixels from the
      center of the output, to the input position (x, y) in pixels from the center of
      the input. Positions outside of the input read its nearest edge.
    size: side of the (square) output; None keeps [H,W].

  Returns:
    u8[B,size,size,C].

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import views
    >>> images = np.full((2, 8, 8, 3), 100, np.uint8)
    >>> rng = np.random.default_rng(0)
    >>> half = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], np.float32)
    >>> print(views.affine(images, np.stack([half, half]), size=4).shape)
    (2, 4, 4, 3)
  """
  # Blocks of the batch that stay in the CPU's cache take half the time of the whole.
  block = max(1, 2**15 // images[0].size)
  return np.concatenate(
    [
      _affine(images[at : at + block], matrices[at : at + block], size)
      for at in range(0, len(images), block)
    ]
  )


def _affine(images: np.ndarray, matrices: np.ndarray, size: int | None) -> np.ndarray:
  batch, height, width, channels = images.shape
  rows, columns = (size, size) if size else (height, width)
  # The four neighbors of a pixel travel as one word: one gather instead of four.
  padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
  corners = np.empty((*images.shape, 4), np.uint8)
  for corner in range(4):
    y, x = divmod(corner, 2)
    corners[..., corner] = padded[:, y : y + height, x : x + width]
  words = corners.view("<u4").reshape(-1, channels)

  out_x = np.arange(columns) - (columns - 1) / 2
  out_y = np.arange(rows)[:, None] - (rows - 1) / 2

  def positions(axis: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole pixels i32[B,rows,columns], and the rest in 1/256 u32[B,...]."""
    by_x, by_y, shift = matrices[:, axis, :, None, None].swapaxes(0, 1)
    middle = shift + (length - 1) / 2
    at = (by_x * out_x * 65536).astype(np.int32) + (
      (by_y * out_y + middle) * 65536
    ).astype(np.int32)
    np.clip(at, 0, (length - 1) << 16, out=at)
    return at >> 16, (at.view(np.uint32) >> 8 & 255)[..., None]

  x, across = positions(0, width)
  y, down = positions(1, height)
  starts = np.arange(batch, dtype=np.int32)[:, None, None] * (height * width)
  # Every index is in range: mode "clip" only spares numpy its check.
  found = words.take(starts + y * width + x, axis=0, mode="clip")
  # Two pixels to a word, 16 bits each: both rows are mixed by one multiplication.
  left, right = found & 0x00FF00FF, found >> 8 & 0x00FF00FF
  # Differences wrap around below zero, and the sums wrap back.
  mixed = (left << 8) + (right - left) * across
  top, bottom = mixed & 0xFFFF, mixed >> 16
  mixed = (top << 8) + (bottom - top) * down
  return (mixed + 32768 >> 16).astype(np.uint8)
