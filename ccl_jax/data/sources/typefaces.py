"""Draws characters of typefaces, groups those that look alike, and warps drawings."""

import dataclasses
import hashlib
import os
import pathlib
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ccl_jax.data import views

# DejaVu 2.37 and STIX General as matplotlib ships them: file -> start of its SHA-256.
DEFAULT_FONTS = {
  "DejaVuSans-Bold.ttf": "b184b89e3c1075f2",
  "DejaVuSans-BoldOblique.ttf": "6edf0283160186af",
  "DejaVuSans-Oblique.ttf": "ccdf74b350f11fd3",
  "DejaVuSans.ttf": "3fdf69cabf06049e",
  "DejaVuSansMono-Bold.ttf": "baada9a5172fe208",
  "DejaVuSansMono-BoldOblique.ttf": "a69081c15c76c827",
  "DejaVuSansMono-Oblique.ttf": "28052813f7a709fc",
  "DejaVuSansMono.ttf": "602ec86b8948cfcd",
  "DejaVuSerif-Bold.ttf": "c3753f2ed6bc673f",
  "DejaVuSerif-BoldItalic.ttf": "d93efec7a9d2e826",
  "DejaVuSerif-Italic.ttf": "3e7994fbc54fa10c",
  "DejaVuSerif.ttf": "107244956e9962b9",
  "STIXGeneral.ttf": "167378031e2dddc6",
  "STIXGeneralBol.ttf": "e8533dc7083fa346",
  "STIXGeneralBolIta.ttf": "98788fd4ba48dfbb",
  "STIXGeneralItalic.ttf": "6cfcb333d22b7c3c",
}
SIZE = 32  # side of a warped image

_UNSHARED = ("Co", "Cs")  # private use and surrogates: fonts disagree on their meaning
_EM, _CANVAS, _BASELINE = 24, 48, 31  # pixels; capitals and descenders are centered
_LAYOUT = ImageFont.Layout.BASIC  # one character needs no shaping library


@dataclasses.dataclass(frozen=True)
class Face:
  """One face of a font file.

  Example:
    >>> from ccl_jax.data.sources.typefaces import Face
    >>> print(Face("mine.ttf", path="fonts/mine.ttf", index=0, digest="b184b8").name)
    mine.ttf
  """

  name: str  # path below the folder of fonts; in a collection, followed by #index
  path: str
  index: int  # place in the file; above 0 only in collections (.ttc)
  digest: str  # SHA-256 of the file


def default_faces() -> list[Face]:
  """The 16 faces of the benchmark.

  Raises:
    ValueError: if the installed matplotlib ships other files; the message names them.

  Example:
    >>> from ccl_jax.data.sources import typefaces
    >>> print(len(typefaces.default_faces()))
    16
  """
  folder = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
  missing = [name for name in DEFAULT_FONTS if not (folder / name).is_file()]
  if missing:
    raise ValueError(
      f"{folder} lacks the fonts {missing}: reinstall matplotlib, or pass fonts=FOLDER"
    )
  found = [face for name in DEFAULT_FONTS for face in _faces(folder, folder / name)]
  changed = [f.name for f in found if not f.digest.startswith(DEFAULT_FONTS[f.name])]
  if changed:
    raise ValueError(
      f"the fonts {changed} in {folder} differ by checksum from those of the"
      " benchmark, so its numbers would not compare: install another"
      " matplotlib, or pass fonts=FOLDER to build a dataset of its own from these files"
    )
  return found


def find_faces(folder: str | os.PathLike) -> list[Face]:
  """Every face of the .ttf, .otf and .ttc files below a folder, by file name.

  Raises:
    ValueError: if there is no such folder, no font in it, or a file that is no font.

  Example:
    >>> import pathlib, shutil, tempfile
    >>> import matplotlib
    >>> from ccl_jax.data.sources import typefaces
    >>> font = pathlib.Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = shutil.copy(font, folder)
    ...   print([face.name for face in typefaces.find_faces(folder)])
    ...
    ['DejaVuSans.ttf']
  """
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise ValueError(f"fonts={str(root)!r} is not a folder: give one with .ttf files")
  paths = sorted(
    path for path in root.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc")
  )
  if not paths:
    raise ValueError(
      f"fonts={str(root)!r} holds no .ttf, .otf or .ttc file: put fonts there"
    )
  return [face for path in paths for face in _faces(root, path)]


def _faces(root: pathlib.Path, path: pathlib.Path) -> Iterator[Face]:
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  try:
    count = FT2Font(path).num_faces
  except RuntimeError as error:
    raise ValueError(f"{path} is not a font ({error}): remove it") from error
  name = path.relative_to(root).as_posix()
  for index in range(count):
    # Faces of a collection need different names, since records identify a face by name.
    yield Face(f"{name}#{index}" if count > 1 else name, str(path), index, digest)


def draw(
  faces: Sequence[Face], min_faces: int, only: str | None = None
) -> list[dict[int, bytes]]:
  """Draws each face: {code point: packed 48 x 48 bitmap}.

  A character is drawn if at least `min_faces` faces have it; `only` restricts the
  characters, None takes all.

  Example:
    >>> from ccl_jax.data.sources import typefaces
    >>> faces = typefaces.default_faces()[:2]
    >>> drawings = typefaces.draw(faces, min_faces=2, only="A\\u0391b")  # Alpha
    >>> print([*map(chr, drawings[0])])
    ['A', 'b', 'Α']
  """
  charmaps = [FT2Font(f.path, face_index=f.index).get_charmap() for f in faces]
  if only is not None:
    charmaps = [set(map(ord, only)).intersection(charmap) for charmap in charmaps]
  spread = Counter(char for charmap in charmaps for char in charmap)
  drawings = []
  canvas = Image.new("L", (_CANVAS, _CANVAS))
  brush = ImageDraw.Draw(canvas)
  for face, charmap in zip(tqdm(faces, "Drawing faces"), charmaps, strict=True):
    font = ImageFont.truetype(face.path, _EM, face.index, layout_engine=_LAYOUT)

    def bitmap(char: int, font=font) -> bytes:
      canvas.paste(0, (0, 0, _CANVAS, _CANVAS))
      brush.text((_CANVAS // 2, _BASELINE), chr(char), 255, font, anchor="ms")
      # Packed, since a large set of fonts has millions of these.
      return zlib.compress(canvas.tobytes(), 1)

    # No font has this noncharacter, so it draws the box of a missing glyph.
    blank = {zlib.compress(bytes(_CANVAS**2), 1), bitmap(0x10FFFF)}
    drawn = {}
    for char in sorted(charmap):
      if spread[char] >= min_faces and unicodedata.category(chr(char)) not in _UNSHARED:
        drawing = bitmap(char)
        if drawing not in blank:
          drawn[char] = drawing
    drawings.append(drawn)
  spread = Counter(char for drawn in drawings for char in drawn)
  return [
    {char: drawing for char, drawing in drawn.items() if spread[char] >= min_faces}
    for drawn in drawings
  ]


def look_alikes(drawings: Sequence[dict[int, bytes]]) -> list[list[int]]:
  """Groups characters that have equal bitmaps in any face, in order of code points.

  The groups are the sets of a union-find forest, each rooted at its least code point.

  Example:
    >>> from ccl_jax.data.sources import typefaces
    >>> faces = typefaces.default_faces()[:2]
    >>> drawings = typefaces.draw(faces, min_faces=2, only="A\\u0391b")  # Alpha
    >>> print([[chr(c) for c in group] for group in typefaces.look_alikes(drawings)])
    [['A', 'Α'], ['b']]
  """
  parents = {char: char for drawn in drawings for char in drawn}

  def root(char: int) -> int:
    while parents[char] != char:
      parents[char] = char = parents[parents[char]]
    return char

  for drawn in drawings:
    first: dict[bytes, int] = {}
    for char, drawing in drawn.items():
      left, right = root(char), root(first.setdefault(drawing, char))
      parents[max(left, right)] = min(left, right)
  classes: dict[int, list[int]] = {}
  for char in sorted(parents):
    classes.setdefault(root(char), []).append(char)
  return list(classes.values())


def warp(
  drawings: Sequence[bytes], chars: Sequence[int], face: Face, copy: int
) -> np.ndarray:
  """Warped images u8[N,32,32]; each depends only on its face, character and copy.

  Example:
    >>> from ccl_jax.data.sources import typefaces
    >>> faces = typefaces.default_faces()[:2]
    >>> drawings = typefaces.draw(faces, min_faces=2, only="A\\u0391b")  # Alpha
    >>> images = typefaces.warp([drawings[0][65]], [65], faces[0], copy=0)
    >>> print(images.shape, images.dtype)
    (1, 32, 32) uint8
  """
  # Philox is counter-based: to jump to the stream of an image costs microseconds.
  stream = np.random.Philox(key=int(face.digest[:24], 16) + face.index)
  rng = np.random.Generator(stream)
  state: Any = stream.state
  draws = np.empty((len(chars), 7))
  noise = np.empty((len(chars), SIZE, SIZE), np.float32)
  for i, char in enumerate(chars):
    state["state"]["counter"][:] = 0, 0, char, copy
    stream.state = state
    draws[i] = rng.random(7)
    noise[i] = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
  # One affine map for each image: up to 0.3 radians, e^0.25 in scale, 4 pixels. It is
  # applied once, from canvas to image, so that pixels are interpolated only once.
  signed = 2 * draws - 1
  matrices = views.warp_matrices(
    rotation=0.3 * signed[:, 0],
    log_scale=0.25 * signed[:, 1],
    shear=0.3 * signed[:, 2],
    shift=4 * signed[:, 3:5],
  )
  canvases = np.frombuffer(b"".join(map(zlib.decompress, drawings)), np.uint8)
  canvases = canvases.reshape(-1, _CANVAS, _CANVAS, 1)
  images = views.affine(canvases, matrices, SIZE)[..., 0].astype(np.float32)
  images = _blur(images, 0.7 * draws[:, 5])
  contrast = (0.6 + 0.4 * draws[:, 6]).astype(np.float32)
  images = images * contrast[:, None, None] + 25.5 * noise
  return np.clip(images + 0.5, 0, 255).astype(np.uint8)


def _blur(images: np.ndarray, sigma: np.ndarray) -> np.ndarray:
  """Blurs images f32[N,H,W], each by its own Gaussian of at most 0.7 pixels.

  Beyond two pixels such a Gaussian is negligible, so five taps suffice.
  """
  taps = np.exp(-0.5 * (np.arange(3) / np.maximum(sigma, 1e-3)[:, None]) ** 2)
  taps /= taps[:, :1] + 2 * taps[:, 1:].sum(1, keepdims=True)
  middle, near, far = taps.astype(np.float32).T[..., None, None]
  for _ in range(2):  # along rows; then, since the result is transposed, along columns
    p = np.pad(images, ((0, 0), (0, 0), (2, 2)))
    images = (
      middle * images
      + near * (p[..., 1:-3] + p[..., 3:-1])
      + far * (p[..., :-4] + p[..., 4:])
    ).swapaxes(1, 2)
  return images


def png(image: np.ndarray) -> bytes:
  """Encodes a gray image u8[H,W] as PNG, ten times as fast as Pillow.

  Example:
    >>> import io
    >>> import numpy as np
    >>> from PIL import Image
    >>> from ccl_jax.data.sources.typefaces import png
    >>> print(Image.open(io.BytesIO(png(np.zeros((32, 48), np.uint8)))).size)
    (48, 32)
  """
  height, width = image.shape

  def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

  rows = np.zeros(
    (height, 1 + width), np.uint8
  )  # a row starts with its filter: 0, none
  rows[:, 1:] = image
  return b"".join(
    [
      b"\x89PNG\r\n\x1a\n",
      chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
      # Noise hardly compresses, so it is only stored.
      chunk(b"IDAT", zlib.compress(rows.tobytes(), 0)),
      chunk(b"IEND", b""),
    ]
  )
