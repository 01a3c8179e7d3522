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
