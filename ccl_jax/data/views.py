"""Random training views, as vectorised functions of a batch of uint8 images.

A view maps (images u8[B,H,W,C], rng) to images of the same shape. It draws with
`size=(B, ...)`, given by name and a row per image: a process that holds a part of a
batch then draws the rows of that part (see `pipeline`).
"""

from collections.abc import Callable

import numpy as np

View = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def chain(*views: View) -> View:
  """The view that applies several, first to last."""

  def view(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for one in views:
      images = one(images, rng)
    return images

  return view


def warp(
  images: np.ndarray,
  rng: np.random.Generator,
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
  """
  draws = rng.uniform(-1, 1, size=(len(images), 5))
  matrices = warp_matrices(
    rotation=rotation * draws[:, 0],
    log_scale=log_scale * draws[:, 1],
    shear=shear * draws[:, 2],
    shift=shift * max(images.shape[1:3]) * draws[:, 3:],
  )
  return affine(images, matrices)


def contrast(
  images: np.ndarray, rng: np.random.Generator, *, strength: float = 0.3
) -> np.ndarray:
  """Multiplies every u8[H,W,C] by its own factor in 1 +- strength, and clips."""
  factors = rng.uniform(1 - strength, 1 + strength, size=(len(images), 1, 1, 1))
  # 24.8 fixed point: integers are several times as fast as a detour through floats.
  scaled = images * (factors * 256).astype(np.uint32) >> 8
  return np.minimum(scaled, 255).astype(np.uint8)


def noise(
  images: np.ndarray, rng: np.random.Generator, *, sigma: float = 0.05
) -> np.ndarray:
  """Adds Gaussian noise of a standard deviation in parts of the full range."""
  normal = rng.standard_normal(size=images.shape, dtype=np.float32)
  normal *= np.float32(255 * sigma)
  normal += images
  normal += np.float32(0.5)
  return np.clip(normal, 0, 255, out=normal).astype(np.uint8)


def flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Mirrors each u8[H,W,C] left to right, with probability one half."""
  mirrored = rng.random(size=(len(images), 1, 1, 1)) < 0.5
  return np.where(mirrored, images[:, :, ::-1], images)


def crop_and_flip(
  images: np.ndarray, rng: np.random.Generator, *, smallest: float = 0.2
) -> np.ndarray:
  """Cuts a random part out of each photo, resizes it to the whole, and may mirror it.

  Args:
    images: u8[B,H,W,C].
    rng: source of the draws.
    smallest: the part's area is uniform in smallest..1 of the image's; its aspect
      ratio is within 3/4..4/3, log-uniform (the usual random resized crop).

  Returns:
    u8[B,H,W,C].
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


def jitter(
  images: np.ndarray,
  rng: np.random.Generator,
  *,
  brightness: float = 0.4,
  contrast: float = 0.4,
  saturation: float = 0.4,
  hue: float = 0.1,
  probability: float = 0.8,
) -> np.ndarray:
  """Changes the colours of some images, each by its own draws in its own order.

  The defaults are those of SimCLR's followers (SupCon, ConTeX), and a factor means what
  it means in torchvision's ColorJitter.

  Args:
    images: u8[B,H,W,3].
    rng: source of the draws.
    brightness: the image is multiplied by 1 +- at most this.
    contrast: its distance from its mean grey likewise.
    saturation: its distance from its own grey likewise.
    hue: turned by at most this part of the circle of colours, either way.
    probability: with which an image is changed.
  """
  strength = np.array([brightness, contrast, saturation, hue])
  draws = strength * rng.uniform(-1, 1, size=(len(images), 4))
  order = rng.random(size=(len(images), 4)).argsort(axis=1)
  changed = rng.random(size=(len(images),)) < probability
  x = images.astype(np.float32)
  for turn in range(4):
    for kind, change in enumerate((_brighten, _contrast, _saturate, _turn_hue)):
      rows = np.flatnonzero(changed & (order[:, turn] == kind))
      amount = draws[rows, kind].astype(np.float32)[:, None, None]
      x[rows] = np.clip(change(x[rows], amount), 0, 255)
  return (x + 0.5).astype(np.uint8)


def grey(
  images: np.ndarray, rng: np.random.Generator, *, probability: float = 0.2
) -> np.ndarray:
  """Takes the colour out of some u8[H,W,3], each with the same probability."""
  rows = np.flatnonzero(rng.random(size=(len(images),)) < probability)
  found = images.copy()
  found[rows] = (_luma(images[rows].astype(np.float32)) + 0.5).astype(np.uint8)[
    ..., None
  ]
  return found


def _luma(x: np.ndarray) -> np.ndarray:
  """Grey f32[B,H,W] of colours, by the weights of ITU-R BT.601."""
  return x @ np.array([0.299, 0.587, 0.114], np.float32)


def _brighten(x, amount):
  return x * (1 + amount[..., None])


def _contrast(x, amount):
  mean = _luma(x).mean(axis=(1, 2))[:, None, None, None]
  return mean + (x - mean) * (1 + amount[..., None])


def _saturate(x, amount):
  own = _luma(x)[..., None]
  return own + (x - own) * (1 + amount[..., None])


def _turn_hue(x, amount):
  """Turns the hue of HSV; saturation and value stay."""
  highest, lowest = x.max(axis=-1), x.min(axis=-1)
  spread = highest - lowest
  red, green, blue = np.moveaxis(x, -1, 0)
  # Sixths of the circle, from red over green and blue.
  hue = np.where(
    highest == red,
    green - blue,
    np.where(highest == green, blue - red + 2 * spread, red - green + 4 * spread),
  ) / np.maximum(spread, 1e-6)
  hue = hue + 6 * amount
  # A channel is the highest near its own hue, the lowest beyond two sixths of it.
  channels = [np.clip(np.abs((hue - at) % 6 - 3) - 1, 0, 1) for at in (0, 2, 4)]
  return highest[..., None] - spread[..., None] * (1 - np.stack(channels, axis=-1))


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
  # The four neighbours of a pixel travel as one word: one gather instead of four.
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
