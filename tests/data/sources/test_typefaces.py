"""Faces that are found and checked, their drawings, and warps of these."""

import io

import numpy as np
import pytest
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image

from ccl_jax.data.sources import typefaces
from tests.data.small_fonts import FACES


def test_the_faces_of_a_collection_have_names_of_their_own(fonts, tmp_path):
  both = TTCollection()
  both.fonts = [TTFont(fonts / name) for name in FACES[:2]]
  both.save(tmp_path / "both.ttc")
  assert [(face.name, face.index) for face in typefaces.find_faces(tmp_path)] == [
    ("both.ttc#0", 0),
    ("both.ttc#1", 1),
  ]


def test_unusable_fonts_are_named(tmp_path):
  with pytest.raises(ValueError, match="nowhere' is not a folder: give one"):
    typefaces.find_faces(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="holds no .ttf, .otf or .ttc file: put fonts"):
    typefaces.find_faces(tmp_path)
  (tmp_path / "broken.ttf").write_bytes(b"not a font")
  with pytest.raises(ValueError, match=r"broken\.ttf is not a font .*: remove it"):
    typefaces.find_faces(tmp_path)


def test_changed_default_fonts_are_named(monkeypatch):
  changed = dict.fromkeys(["DejaVuSans.ttf"], "0" * 16)
  monkeypatch.setattr(typefaces, "DEFAULT_FONTS", typefaces.DEFAULT_FONTS | changed)
  with pytest.raises(ValueError, match=r"\['DejaVuSans.ttf'\] .* differ by checksum"):
    typefaces.default_faces()
  missing = {"Gone.ttf": "0" * 16}
  monkeypatch.setattr(typefaces, "DEFAULT_FONTS", typefaces.DEFAULT_FONTS | missing)
  with pytest.raises(ValueError, match=r"lacks the fonts \['Gone.ttf'\]: reinstall"):
    typefaces.default_faces()


def test_a_warp_depends_on_its_own_character_face_and_copy(fonts):
  face, other = typefaces.find_faces(fonts)[:2]
  drawn = typefaces.draw([face], 1)[0]
  some = [drawn[ord(c)] for c in "abc"]
  together = typefaces.warp(some, [97, 98, 99], face, 0)
  np.testing.assert_array_equal(
    typefaces.warp(some[1:2], [98], face, 0)[0], together[1]
  )
  for changed in (
    typefaces.warp(some[1:2], [97], face, 0),
    typefaces.warp(some[1:2], [98], other, 0),
    typefaces.warp(some[1:2], [98], face, 1),
  ):
    assert (changed[0] != together[1]).mean() > 0.3


def test_blur_is_a_gaussian():
  image = np.zeros((1, 7, 7), np.float32)
  image[0, 3, 3] = 1
  seen = typefaces._blur(image, np.array([0.6]))[0]
  line = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.6**2))
  np.testing.assert_allclose(
    seen[1:6, 1:6], np.outer(line, line) / line.sum() ** 2, atol=1e-6
  )
  np.testing.assert_allclose(typefaces._blur(image, np.zeros(1)), image)


def test_a_png_is_what_pillow_reads():
  image = np.random.default_rng(0).integers(0, 256, (5, 9), np.uint8)
  with Image.open(io.BytesIO(typefaces.png(image))) as read:
    assert (read.format, read.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.asarray(read), image)
