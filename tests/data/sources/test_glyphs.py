"""Glyphs: built from six small fonts, and the counts of the default ones."""

import collections
import json
import pathlib
import pickle

import numpy as np
import pytest

from ccl_jax.data.sources import glyphs, typefaces
from ccl_jax.data.sources.glyphs import Glyphs
from tests.data.small_fonts import FACES


@pytest.fixture(scope="session")
def built(fonts, tmp_path_factory):
  """The folder of a finished build, read once."""
  data_dir = tmp_path_factory.mktemp("tfds")
  glyphs.load(data_dir, fonts=fonts)
  return data_dir


def records(fonts, data_dir):
  builder = Glyphs(fonts=fonts, data_dir=data_dir)
  undecoded = {"image": glyphs.tfds.decode.SkipDecoding()}
  return builder, {
    split: list(builder.as_data_source(split=split, decoders=undecoded))
    for split in ("train", "test")
  }


def test_counts_and_classes_of_the_build(fonts, built):
  builder, splits = records(fonts, built)
  # 24 small letters, without q and z; 26 capitals, one with two that look like it.
  assert builder.info.metadata["counts"] == {"classes": 50} | {
    split: len(found) for split, found in splits.items()
  }
  pairs = {
    split: collections.Counter((r["character"], r["face"]) for r in found)
    for split, found in splits.items()
  }
  assert set(pairs["train"].values()) == {2} and set(pairs["test"].values()) == {1}
  assert len(pairs["train"]) + len(pairs["test"]) == 52 * 6
  train, test = ({char for char, _ in pairs[split]} for split in ("train", "test"))
  assert not train & test and len(train | test) == 52
  assert not {b"q", b"z", b" "} & (train | test)


def test_characters_that_look_alike_are_one_class(fonts, built):
  _, splits = records(fonts, built)
  labels = {r["character"].decode(): r["label"] for f in splits.values() for r in f}
  assert labels["A"] == labels["Α"] == labels["А"] != labels["B"]
  assert len(set(labels.values())) == 50


def test_labels_are_dense_and_names_tell_the_character(fonts, built):
  train, test = glyphs.load(built, fonts=fonts)
  assert (train.num_classes, test.num_classes) == (25, 25)
  assert not set(train.class_names) & set(test.class_names)
  _, splits = records(fonts, built)
  for examples, found in ((train, splits["train"]), (test, splits["test"])):
    assert sorted(set(examples.labels.tolist())) == list(range(examples.num_classes))
    assert examples[0]["image"].shape == (32, 32, 1)
    for label, record in zip(examples.labels, found, strict=True):
      name = examples.class_names[label]
      assert ord(record["character"].decode()) in {int(name[2:], 16), 0x391, 0x410}


def test_copies_of_a_drawing_are_a_group(fonts, built):
  """Also where the decoded copy on the disk is of a version that did not tell them."""
  builder, splits = records(fonts, built)
  path = pathlib.Path(builder.data_dir, "train.decoded.npz")
  with np.load(path) as saved:
    np.savez(path, images=saved["images"], labels=saved["labels"])
  for examples, found in zip(
    glyphs.load(built, fonts=fonts), splits.values(), strict=True
  ):
    drawings = [(record["character"], record["face"]) for record in found]
    pairs = set(zip(examples.groups.tolist(), drawings, strict=True))
    assert len(pairs) == len(set(drawings)) == len(set(examples.groups.tolist()))


def test_images_are_glyphs_with_noise(fonts, built):
  images = glyphs.load(built, fonts=fonts)[1].take(np.arange(100))["image"]
  corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
  assert (images.max((1, 2, 3)) > 120).all()  # the glyph, of contrast 0.6 at least
  assert 5 < corners.mean() < 20  # half of a normal of sigma 25.5, below 0 cut off


def test_the_info_tells_the_fonts_and_the_versions(fonts, built):
  folder = pathlib.Path(Glyphs(fonts=fonts, data_dir=built).data_dir)
  metadata = json.loads((folder / "metadata.json").read_text())
  assert sorted(metadata["fonts"]) == sorted(FACES)
  digest = glyphs.hashlib.sha256((fonts / FACES[0]).read_bytes()).hexdigest()
  assert metadata["fonts"][FACES[0]] == digest
  assert metadata["pillow"] == glyphs.Image.__version__ and metadata["freetype"]


def test_two_builds_have_the_same_bytes(fonts, built, tmp_path):
  glyphs.load(tmp_path, fonts=fonts)
  one, other = (
    {
      path.relative_to(root): path.read_bytes()
      for path in root.rglob("*.array_record*")
    }
    for root in (built, tmp_path)
  )
  assert len(one) == 2 and one == other


def test_a_second_load_only_reads(fonts, built, monkeypatch):
  before = glyphs.load(built, fonts=fonts)
  monkeypatch.setattr(typefaces, "draw", None)
  monkeypatch.setattr(glyphs, "_decode", None)
  for one, other in zip(before, glyphs.load(built, fonts=fonts), strict=True):
    np.testing.assert_array_equal(one.source.images, other.source.images)
    np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize(
  ("module", "victim", "calls"),
  [(typefaces, "png", 100), (typefaces, "png", 400), (glyphs, "_decode", 1)],
)
def test_an_interrupted_build_is_done_again(
  module, victim, calls, fonts, built, tmp_path, monkeypatch
):
  original, count = getattr(module, victim), iter(range(10**6))

  def stop(*args):
    if next(count) == calls:
      raise KeyboardInterrupt
    return original(*args)

  with monkeypatch.context() as patch:
    patch.setattr(module, victim, stop)
    with pytest.raises(KeyboardInterrupt):
      glyphs.load(tmp_path, fonts=fonts)
  again, whole = glyphs.load(tmp_path, fonts=fonts), glyphs.load(built, fonts=fonts)
  for one, other in zip(again, whole, strict=True):
    np.testing.assert_array_equal(one.source.images, other.source.images)


def test_other_fonts_or_rules_have_a_folder_of_their_own(fonts, tmp_path):
  name = typefaces.find_faces(fonts)[0].name
  smaller = tmp_path / "fonts"
  smaller.mkdir()
  for path in fonts.iterdir():
    if path.name != name:
      (smaller / path.name).write_bytes(path.read_bytes())
  folders = [
    Glyphs(fonts=fonts, data_dir=tmp_path).data_dir,
    Glyphs(fonts=fonts, min_faces=5, data_dir=tmp_path).data_dir,
    Glyphs(fonts=smaller, min_faces=5, data_dir=tmp_path).data_dir,
  ]
  (smaller / FACES[3]).write_bytes((fonts / FACES[4]).read_bytes())
  folders.append(Glyphs(fonts=smaller, min_faces=5, data_dir=tmp_path).data_dir)
  assert len(set(folders)) == 4


def test_a_builder_survives_pickling(fonts, built):
  builder = pickle.loads(pickle.dumps(Glyphs(fonts=fonts, data_dir=built)))
  assert builder.data_dir == Glyphs(fonts=fonts, data_dir=built).data_dir


def test_the_default_fonts_give_the_counts_of_the_benchmark(tmp_path):
  builder = Glyphs(data_dir=tmp_path)
  builder._split_generators(None)  # draws and counts all; a difference would warn
  assert builder.info.metadata["counts"] == glyphs.DEFAULT_COUNTS
  assert builder.info.metadata["fonts"].keys() == typefaces.DEFAULT_FONTS.keys()


def test_another_rasteriser_only_warns(fonts, monkeypatch, tmp_path):
  drawn = typefaces.draw(typefaces.find_faces(fonts), 6)
  monkeypatch.setattr(typefaces, "draw", lambda *_: drawn)
  with pytest.warns(UserWarning, match="the benchmark has .*'classes': 3464.* Pillow"):
    Glyphs(data_dir=tmp_path)._split_generators(None)


def test_too_few_faces(fonts, tmp_path):
  with pytest.raises(ValueError, match="found 6 faces, and a class needs 7: add fonts"):
    Glyphs(fonts=fonts, min_faces=7, data_dir=tmp_path)


def test_too_few_shared_characters(fonts, monkeypatch, tmp_path):
  monkeypatch.setattr(typefaces, "draw", lambda *_: [{65: b"A", 66: b"B", 67: b"C"}])
  with pytest.raises(ValueError, match="share 3 classes of characters, expected"):
    Glyphs(fonts=fonts, data_dir=tmp_path)._split_generators(None)
