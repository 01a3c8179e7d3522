"""The four published benchmarks, from archives in the layout of the originals."""

import io
import json
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from ccl_jax.data.sources import cars, cub, inshop, published, sop
from tests.data import tiny_archives as tiny

BENCHMARKS = {
  "sop": sop.StanfordOnlineProductsZeroShot,
  "inshop": inshop.InShopRetrieval,
  "cub": cub.Cub2002011ZeroShot,
  "cars": cars.Cars196ZeroShot,
}
# The published number of the first class of each split.
FIRST = {"sop": (1, 11319), "inshop": (1, 3998, 3998), "cub": (1, 101), "cars": (1, 99)}


@pytest.fixture(scope="session")
def built(archives, tmp_path_factory):
  """Name -> the data_dir of a finished build of the first classes."""
  finished = {}

  def get(name):
    if name not in finished:
      finished[name] = tmp_path_factory.mktemp("tfds")
      load(name, finished[name], images=archives(name))
    return finished[name]

  return get


def load(name, data_dir, **options):
  options = {"classes": tiny.CLASSES, "image_size": 32, "channels": 1} | options
  return published.load(BENCHMARKS[name], data_dir, **options)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_image_has_the_class_that_it_shows(name, archives, built):
  splits = load(name, built(name))
  for examples, first in zip(splits, FIRST[name], strict=True):
    assert examples.num_classes == tiny.CLASSES
    for row in range(0, len(examples), 7):
      example = examples[row]
      assert tiny.shown(example["image"]) == first + example["label"]
  names = [examples.class_names[0] for examples in splits]
  assert (
    names
    == {
      "sop": ["1 mug", "11319 stapler"],
      "inshop": ["id_00000001", "id_00003998", "id_00003998"],
      "cub": ["001.Bird_1", "101.Bird_101"],
      "cars": ["Make 196 Coupe 2012", "Make 098 Coupe 2012"],
    }[name]
  )


def test_query_and_gallery_are_of_the_same_classes(built):
  train, query, gallery = load("inshop", built("inshop"))
  assert query.class_names == gallery.class_names
  assert not set(query.class_names) & set(train.class_names)
  assert not set(query.source.paths) & set(gallery.source.paths)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_records_and_metadata_agree(name, built):
  data_dir = built(name)
  (folder,) = data_dir.glob("*/first_8_classes/1.0.0")
  builder = tfds.builder_from_directory(folder)
  skip = {"image": tfds.decode.SkipDecoding()}
  for split in builder.info.splits:
    records = list(builder.as_data_source(split, decoders=skip))
    assert [r["path"].decode() for r in records] == builder.info.metadata["paths"][
      split
    ]
    assert [int(r["label"]) for r in records] == builder.info.metadata["labels"][split]
  for examples in load(name, data_dir):
    paths = [examples.source.paths[index] for index in examples.indices]
    records = [examples.source.records[int(index)] for index in examples.indices]
    assert paths == sorted(paths) == [r["path"].decode() for r in records]
    assert paths == examples.ids


def unpack(name, root):
  for path in sorted(root.rglob("*")):
    if path.suffix == ".zip":
      with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent)
    elif path.suffix == ".tgz":
      with tarfile.open(path) as archive:
        archive.extractall(path.parent, filter="data")
  for path in [*root.rglob("*.zip"), *root.rglob("*.tgz")]:
    path.unlink()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_unpacked_archive_gives_the_same(name, archives, built, tmp_path):
  shutil.copytree(archives(name), tmp_path / "images")
  unpack(name, tmp_path / "images")
  packed = load(name, built(name))
  unpacked = load(name, tmp_path / "tfds", images=tmp_path / "images")
  for one, other in zip(packed, unpacked, strict=True):
    assert one.class_names == other.class_names
    np.testing.assert_array_equal(one.labels, other.labels)
    of_one = [one.source.paths[index] for index in one.indices]
    assert of_one == [other.source.paths[index] for index in other.indices]


def test_the_halves_of_cars_give_the_same_classes(archives, built, tmp_path):
  whole = load("cars", built("cars"))
  halves = load("cars", tmp_path, images=archives("cars in halves"))
  for one, other, first in zip(whole, halves, FIRST["cars"], strict=True):
    assert one.class_names == other.class_names
    counts = [np.bincount(examples.labels) for examples in (one, other)]
    np.testing.assert_array_equal(*counts)
    for row in range(0, len(other), 50):
      assert tiny.shown(other[row]["image"]) == first + other[row]["label"]


def test_what_is_built_needs_no_archive(built, monkeypatch):
  monkeypatch.setattr(published, "Tree", None)
  assert len(load("sop", built("sop"))) == 2


def test_examples_travel_to_workers(built):
  train, _ = load("cub", built("cub"))
  copy = pickle.loads(pickle.dumps(train))
  np.testing.assert_array_equal(copy[9]["image"], train[9]["image"])
  builder = cub.Cub2002011ZeroShot(classes=8, data_dir=built("cub"))
  assert pickle.loads(pickle.dumps(builder)).data_dir == builder.data_dir


# What is missing.


@pytest.mark.parametrize(
  ("name", "says"),
  [
    ("sop", "Stanford_Online_Products.zip .*https://cvgl.stanford.edu"),
    ("inshop", "Eval/list_eval_partition.txt .*https://mmlab.ie.cuhk.edu.hk"),
    ("cub", "CUB_200_2011.tgz .*https://data.caltech.edu"),
    ("cars", "car_ims.tgz and cars_annos.mat .*d5c8f0aa497503f355e17dc7886c3f14"),
  ],
)
def test_what_to_fetch_is_said(name, says, tmp_path):
  for images in (None, tmp_path, tmp_path / "nowhere"):
    with pytest.raises(FileNotFoundError, match=f"{says}.* images=FOLDER"):
      load(name, tmp_path / "tfds", images=images)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_archives_are_looked_for_where_tfds_keeps_them(archives, tmp_path):
  manual = tmp_path / "downloads" / "manual"
  manual.mkdir(parents=True)
  shutil.copy(archives("cub") / "CUB_200_2011.tgz", manual)
  assert len(load("cub", tmp_path)) == 2


def test_a_folder_of_classes_does_not_tell_the_classes_of_cars(tmp_path):
  (tmp_path / "train" / "Acura RL Sedan 2012").mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match="class folders without the .mat files"):
    load("cars", tmp_path / "tfds", images=tmp_path)


def test_a_missing_image_is_named(archives, tmp_path):
  shutil.copytree(archives("sop"), tmp_path / "images")
  unpack("sop", tmp_path / "images")
  (gone,) = tmp_path.rglob(f"{10**11 + 3}_15.JPG")
  gone.unlink()
  with pytest.raises(
    FileNotFoundError, match=rf"1 of 48 listed .*{gone.name}: the archive"
  ):
    load("sop", tmp_path / "tfds", images=tmp_path / "images")


# What was altered.


def write_lists(root, files):
  for name, text in files.items():
    (root / name).write_text(text)
  return root


def sop_files(change=lambda lists: None, rows=None):
  lists = {name: some[:rows] for name, some in tiny.sop_lists().items()}
  change(lists)
  return {name: tiny.sop_text(some) for name, some in lists.items()}


def lose_a_row(lists):
  lists["Ebay_train.txt"].pop()


def join_two_classes(lists):
  rows = lists["Ebay_test.txt"]
  rows[:] = [(i, max(c, 11320), k, p) for i, c, k, p in rows]


def repeat_a_path(lists):
  rows = lists["Ebay_train.txt"]
  rows[1] = (*rows[1][:3], rows[0][3])


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lose_a_row, "train 11,318 classes, 59,550 images.* published are train 11,318"),
    (join_two_classes, "test 11,315 classes, 60,502 images"),
    (repeat_a_path, "the lists name mug_final/100000000001_1.JPG 2 times"),
  ],
)
def test_other_counts_than_sop_has(change, says, tmp_path):
  write_lists(tmp_path, sop_files(change))
  with pytest.raises(ValueError, match=says):
    load("sop", tmp_path / "tfds", images=tmp_path)


def number_anew(lists):
  rows = lists["Ebay_test.txt"]
  rows[:] = [(i, c - 11318, k, p) for i, c, k, p in rows]


def mix_kinds(lists):
  image, number, kind, path = lists["Ebay_test.txt"][20]
  lists["Ebay_test.txt"][20] = (image, number, kind % 12 + 1, path)


def cut_a_line(lists):
  lists["Ebay_train.txt"][-1] = lists["Ebay_train.txt"][-1][:3]


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (number_anew, "test classes 1 to 7, and published are 11319 to 22634"),
    (mix_kinds, "puts .*_final/.* into super class .* and other images of .* altered"),
    (cut_a_line, "line 41 of Ebay_train.txt in .* has 3 fields, expected 4"),
  ],
)
def test_altered_lists_of_sop(change, says, tmp_path):
  write_lists(tmp_path, sop_files(change, rows=40))
  with pytest.raises(ValueError, match=says):
    load("sop", tmp_path / "tfds", images=tmp_path)


def test_another_header_of_sop(tmp_path):
  files = sop_files(rows=40)
  files["Ebay_test.txt"] = files["Ebay_test.txt"].partition("\n")[2]
  write_lists(tmp_path, files)
  with pytest.raises(ValueError, match="Ebay_test.txt in .* opens with '59552 11319"):
    load("sop", tmp_path / "tfds", images=tmp_path)


def test_other_counts_than_inshop_has(tmp_path):
  text = tiny.inshop_text(tiny.inshop_list()[1:])
  write_lists(tmp_path, {"list_eval_partition.txt": text})
  with pytest.raises(ValueError, match="train 3,997 classes, 25,881 images"):
    load("inshop", tmp_path / "tfds", images=tmp_path)


@pytest.mark.parametrize(
  ("row", "becomes", "says"),
  [
    (7, ("img/a.jpg", "id_00000001", "train"), "line 10 of .* in a folder of its item"),
    (30, ("img/id_00000005/a.jpg", "id_00000005", "val"), "line 33 of .* or gallery: "),
    (30, ("img/id_00004000/a.jpg", "id_00004000", "query"), "hold the same items"),
    (30, ("img/id_00003998/a.jpg", "id_00003998", "train"), "train none of them"),
  ],
)
def test_altered_list_of_inshop(row, becomes, says, tmp_path):
  whole = tiny.inshop_list()
  rows = [one for one in whole if int(one[1][3:]) in (1, 2, 3, 4, 5, 6, 3998)]
  rows[row] = becomes
  write_lists(tmp_path, {"list_eval_partition.txt": tiny.inshop_text(rows)})
  with pytest.raises(ValueError, match=says):
    load("inshop", tmp_path / "tfds", images=tmp_path)


def test_a_list_of_inshop_that_was_cut_short(tmp_path):
  text = tiny.inshop_text(tiny.inshop_list())
  write_lists(tmp_path, {"list_eval_partition.txt": text[: len(text) // 2]})
  with pytest.raises(ValueError, match="announces 52712 rows .* and has 2"):
    load("inshop", tmp_path / "tfds", images=tmp_path)


def cub_files(name, change):
  lists = tiny.cub_lists()
  lists[name] = change(lists[name])
  return {name: tiny.cub_text(rows) for name, rows in lists.items()}


@pytest.mark.parametrize(
  ("name", "change", "says"),
  [
    (
      "image_class_labels.txt",  # as if the folders had been sorted from the last on
      lambda rows: [(image, 201 - number) for image, number in rows],
      "class 200, which classes.txt calls 200.Bird_200: .* numbered anew",
    ),
    ("images.txt", lambda rows: rows[:-1], "11787 images, 11788 labels"),
    ("train_test_split.txt", lambda rows: rows[::-1][:5000], "5000 rows of a split"),
    (
      "train_test_split.txt",
      lambda rows: [(image, 1 - half) for image, half in rows],
      "a split with 5794 to train on; expected .* 5994",
    ),
    ("classes.txt", lambda rows: rows[:-1], "class 200, which classes.txt calls None"),
  ],
)
def test_altered_lists_of_cub(name, change, says, tmp_path):
  write_lists(tmp_path, cub_files(name, change))
  with pytest.raises(ValueError, match=says):
    load("cub", tmp_path / "tfds", images=tmp_path)


def test_folders_of_cub_that_were_renamed(tmp_path):
  """Lists that agree with each other, of folders numbered in another order."""
  lists = tiny.cub_lists()
  folder = {c: f"{201 - c:03d}.Bird_{c}" for c in range(1, 201)}
  lists["classes.txt"] = list(folder.items())
  classes = dict(lists["image_class_labels.txt"])
  lists["images.txt"] = [(i, f"{folder[c]}/{i}.jpg") for i, c in classes.items()]
  write_lists(tmp_path, {name: tiny.cub_text(rows) for name, rows in lists.items()})
  with pytest.raises(ValueError, match="gives class 1 to .* of folder 200.Bird_1"):
    load("cub", tmp_path / "tfds", images=tmp_path)


def car_annotations(classes):
  paths = [f"car_ims/{number:06d}.jpg" for number in range(1, len(classes) + 1)]
  return tiny.annotations("relative_im_path", paths, classes)


@pytest.mark.parametrize(
  ("classes", "names", "says"),
  [
    ([197 - c for c in tiny.cars_classes()], 196, "train 98 classes, 8,131 images"),
    ([0, 195], 196, "has classes 0 to 195 and 196 names"),
    ([1, 196], 195, "has classes 1 to 196 and 195 names, expected 1 to 196"),
  ],
)
def test_altered_classes_of_cars(classes, names, says, tmp_path):
  content = {
    "annotations": car_annotations(classes),
    "class_names": tiny.class_names()[:, :names],
  }
  scipy.io.savemat(tmp_path / "cars_annos.mat", content)
  with pytest.raises(ValueError, match=says):
    load("cars", tmp_path / "tfds", images=tmp_path)


def test_unusable_annotations_of_cars(archives, tmp_path):
  (tmp_path / "cars_annos.mat").write_bytes(b"not a .mat file")
  with pytest.raises(ValueError, match="cars_annos.mat in .* is no .mat file that can"):
    load("cars", tmp_path / "tfds", images=tmp_path)
  scipy.io.savemat(tmp_path / "cars_annos.mat", {"class_names": tiny.class_names()})
  with pytest.raises(ValueError, match="has no annotations: fetch it again"):
    load("cars", tmp_path / "tfds", images=tmp_path)
  # The devkit's own test annotations, which come without classes.
  unlabeled = np.array([[("00001.jpg",)] * 2], [("fname", object)])
  shutil.copy(archives("cars in halves") / "car_devkit.tgz", tmp_path)
  (tmp_path / "cars_annos.mat").unlink()
  mat = tmp_path / "cars_test_annos_withlabels.mat"
  scipy.io.savemat(mat, {"annotations": unlabeled})
  with pytest.raises(ValueError, match="have the fields fname and no class: fetch"):
    load("cars", tmp_path / "tfds", images=tmp_path)
  mat.unlink()
  with pytest.raises(FileNotFoundError, match="nor cars_test_annos_withlabels.mat"):
    load("cars", tmp_path / "tfds", images=tmp_path)


def test_an_image_that_was_cut_short_stops_the_build(archives, tmp_path):
  shutil.copytree(archives("cub"), tmp_path / "images")
  unpack("cub", tmp_path / "images")
  damaged = sorted(tmp_path.rglob("102.Bird_102/*.jpg"))[3]
  damaged.write_bytes(damaged.read_bytes()[:-20])
  with pytest.raises(ValueError, match=f"{damaged.name} does not decode .*truncated"):
    load("cub", tmp_path / "tfds", images=tmp_path / "images")
  assert not list((tmp_path / "tfds").glob("*/*/1.0.0")), "half a build was left"


def encoded(kind, **options):
  noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(noise).save(file, kind, **options)
  return file.getvalue()


def with_thumbnail():
  """A photo whose EXIF part holds a whole JPEG of its own, as cameras write it."""
  no_tags = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
  photo = encoded("jpeg", exif=no_tags + tiny.jpeg(5))
  assert photo.count(b"\xff\xd9") == 2
  return photo


WHOLE = {
  "jpeg": encoded("jpeg"),
  "progressive": encoded("jpeg", progressive=True),
  "with a thumbnail": with_thumbnail(),
  "with zeros behind": encoded("jpeg") + bytes(100),
  "png": encoded("png"),
  "gif": encoded("gif"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_images_pass_and_cut_ones_do_not(kind):
  whole = WHOLE[kind]
  published.check_image(whole, "a.jpg")
  behind = 100 if kind == "with zeros behind" else 0
  for kept in (0, 1, 100, len(whole) // 2, len(whole) - behind - 200):
    with pytest.raises(ValueError, match="a.jpg does not decode .*: the archive is"):
      published.check_image(whole[:kept], "a.jpg")


# What tensorflow_datasets prepared.


class CaltechBirds2011Stub(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Records as the caltech_birds2011 of tensorflow_datasets has them."""

  VERSION = tfds.core.Version("0.2.0")
  name = "caltech_birds2011"
  code_path = None
  rows: list

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "image/filename": tfds.features.Text(),
          "label": tfds.features.ClassLabel(num_classes=200),
          "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    # Every class lies in both halves.
    halves = {"train": self.rows[::2], "test": self.rows[1::2]}
    return {half: self._generate(rows) for half, rows in halves.items()}

  def _generate(self, rows):
    for number, path in rows:
      of_class = int(path[:3])
      yield (
        number,
        {
          "image": io.BytesIO(tiny.jpeg(of_class)),
          "image/filename": f"CUB_200_2011/images/{path}",
          "label": of_class - 1,
          "segmentation_mask": io.BytesIO(tiny.jpeg(0)),
        },
      )

  _generate_examples = _generate


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """The data_dir with a prepared caltech_birds2011."""
  CaltechBirds2011Stub.rows = tiny.cub_lists()["images.txt"]
  data_dir = tmp_path_factory.mktemp("prepared")
  builder = CaltechBirds2011Stub(data_dir=data_dir, file_format="array_record")
  builder.download_and_prepare()
  return data_dir


def test_the_whole_of_prepared_birds_is_split_by_class(prepared, tmp_path):
  train, test = load("cub", tmp_path, images=prepared, classes=None)
  assert (len(train), train.num_classes) == (5864, 100)
  assert (len(test), test.num_classes) == (5924, 100)
  for examples, first in ((train, 1), (test, 101)):
    for row in range(0, len(examples), 500):
      assert tiny.shown(examples[row]["image"]) == first + examples[row]["label"]


@pytest.mark.parametrize("below", ["", "caltech_birds2011", "caltech_birds2011/0.2.0"])
def test_prepared_records_are_found(below, prepared):
  found = published.Prepared.find("caltech_birds2011", prepared / below)
  assert found and found.path == prepared / "caltech_birds2011" / "0.2.0"
  assert published.Prepared.find("stanford_online_products", prepared) is None


def test_what_is_prepared_in_the_data_dir_is_taken(prepared):
  builder = cub.Cub2002011ZeroShot(data_dir=prepared)
  found = builder._find_images(prepared / "downloads")
  assert isinstance(found, published.Prepared)


def test_prepared_tfrecords_say_how_to_convert_them(prepared, tmp_path):
  folder = shutil.copytree(prepared / "caltech_birds2011", tmp_path / "birds")
  path = pathlib.Path(folder, "0.2.0", "dataset_info.json")
  info = json.loads(path.read_text()) | {"fileFormat": "tfrecord"}
  path.write_text(json.dumps(info))
  with pytest.raises(ValueError, match="tfrecord records.*tfds convert_format"):
    load("cub", tmp_path, images=path.parent)
