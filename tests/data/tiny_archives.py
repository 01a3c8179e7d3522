"""Archives in the layout of the originals: whole lists, true counts, tiny images.

Only the first `CLASSES` classes of each split come with their images, which show the
number of their class; the lists name all.
"""

import functools
import io
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image

CLASSES = 8


@functools.cache
def jpeg(number: int) -> bytes:
  """A gray 32 x 32 picture that shows a number as bright and dark squares."""
  bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
  pixels = np.kron(60 + 120 * bits, np.ones((8, 8), np.uint8))
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "jpeg", quality=90)
  return file.getvalue()


def shown(pixels: np.ndarray) -> int:
  """The number that a decoded picture shows."""
  bright = pixels.reshape(4, 8, 4, 8).mean((1, 3)).reshape(-1) > 120
  return int((bright << np.arange(16)).sum())


def has_images(of_class: int, *firsts: int) -> bool:
  return any(first <= of_class < first + CLASSES for first in firsts)


def spread(images: int, classes: range) -> list[int]:
  """The class of each of some images, in order, all classes as large as can be."""
  share, rest = divmod(images, len(classes))
  return [c for i, c in enumerate(classes) for _ in range(share + (i < rest))]


KINDS = (
  "bicycle cabinet chair coffee_maker fan kettle lamp mug sofa stapler table toaster"
).split()


def sop_lists() -> dict[str, list[tuple[int, int, int, str]]]:
  """(image_id, class_id, super_class_id, path) of each list's lines."""
  lists, image = {}, 0
  for name, total, classes in (
    ("Ebay_train.txt", 59551, range(1, 11319)),
    ("Ebay_test.txt", 60502, range(11319, 22635)),
  ):
    lists[name] = []
    for of_class in spread(total, classes):
      image += 1
      kind = 7 * of_class % 12  # so that paths and classes sort differently
      path = f"{KINDS[kind]}_final/{10**11 + of_class}_{image}.JPG"
      lists[name].append((image, of_class, kind + 1, path))
  return lists


def sop_text(rows) -> str:
  lines = ["image_id class_id super_class_id path"]
  return "\n".join(lines + [" ".join(map(str, row)) for row in rows]) + "\n"


def write_sop(root) -> None:
  """Stanford_Online_Products.zip."""
  with zipfile.ZipFile(root / "Stanford_Online_Products.zip", "w") as archive:
    for name, rows in sop_lists().items():
      archive.writestr(f"Stanford_Online_Products/{name}", sop_text(rows))
      for _, of_class, _, file in rows:
        if has_images(of_class, 1, 11319):
          archive.writestr(f"Stanford_Online_Products/{file}", jpeg(of_class))


def inshop_list() -> list[tuple[str, str, str]]:
  """(image_name, item_id, evaluation_status) of each row."""
  rows = []
  for status, total, items in (
    ("train", 25882, range(1, 3998)),
    ("query", 14218, range(3998, 7983)),
    ("gallery", 12612, range(3998, 7983)),
  ):
    for number, item in enumerate(spread(total, items)):
      name = f"id_{item:08d}"
      path = f"img/WOMEN/Dresses/{name}/{number:05d}_{status}.jpg"
      rows.append((path, name, status))
  return rows


def inshop_text(rows) -> str:
  lines = [str(len(rows)), "image_name item_id evaluation_status"]
  lines += [f"{path:<70} {item} {status:<8}" for path, item, status in rows]
  return "\n".join(lines) + "\n"


def write_inshop(root) -> None:
  """Eval/list_eval_partition.txt and Img/img.zip."""
  for folder in ("Eval", "Img"):
    (root / folder).mkdir()
  rows = inshop_list()
  (root / "Eval" / "list_eval_partition.txt").write_text(inshop_text(rows))
  with zipfile.ZipFile(root / "Img" / "img.zip", "w") as archive:
    for path, item, _ in rows:
      number = int(item.removeprefix("id_"))
      if has_images(number, 1, 3998):
        archive.writestr(path, jpeg(number))


def write_tgz(path, files) -> None:
  """A .tgz of {name: bytes}."""
  with tarfile.open(path, "w:gz", compresslevel=1) as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def cub_lists() -> dict[str, list[tuple]]:
  """Rows of each list; the ids are 1 to 11,788."""
  of_image = spread(5864, range(1, 101)) + spread(5924, range(101, 201))
  folders = {c: f"{c:03d}.Bird_{c}" for c in range(1, 201)}
  return {
    "images.txt": [
      (i, f"{folders[c]}/Bird_{c}_{i:04d}.jpg") for i, c in enumerate(of_image, 1)
    ],
    "image_class_labels.txt": list(enumerate(of_image, 1)),
    "classes.txt": list(folders.items()),
    "train_test_split.txt": [(i, int(i <= 5994)) for i in range(1, 11789)],
  }


def cub_text(rows) -> str:
  return "".join(f"{number} {value}\n" for number, value in rows)


def write_cub(root) -> None:
  """CUB_200_2011.tgz."""
  lists = cub_lists()
  files = {"attributes.txt": b"1 has_bill_shape::curved\n"}
  for name, rows in lists.items():
    files[f"CUB_200_2011/{name}"] = cub_text(rows).encode()
  for _, name in lists["images.txt"]:
    if has_images(int(name[:3]), 1, 101):
      files[f"CUB_200_2011/images/{name}"] = jpeg(int(name[:3]))
  write_tgz(root / "CUB_200_2011.tgz", files)


def cars_classes() -> list[int]:
  """The class of each of the 16,185 images."""
  return spread(8054, range(1, 99)) + spread(8131, range(99, 197))


def annotations(path_field, paths, classes, **more):
  """The struct of a .mat file; its four bounds of a box are left out, to be fast."""
  rows = [
    {path_field: path, "class": number, **more}
    for path, number in zip(paths, classes, strict=True)
  ]
  kinds = [(name, object) for name in rows[0]]
  return np.array([[tuple(row.values()) for row in rows]], kinds)


def class_names():
  names = np.empty((1, 196), object)
  names[0] = [f"Make {number:03d} Coupe 2012" for number in range(196, 0, -1)]
  return names


def _is_shown(of_class: int) -> bool:
  return has_images(of_class, 1, 99)


def write_cars(root) -> None:
  """car_ims.tgz and cars_annos.mat."""
  classes = cars_classes()
  paths = [f"car_ims/{number:06d}.jpg" for number in range(1, len(classes) + 1)]
  scipy.io.savemat(
    root / "cars_annos.mat",
    {
      "annotations": annotations("relative_im_path", paths, classes, test=0),
      "class_names": class_names(),
    },
  )
  files = {p: jpeg(c) for p, c in zip(paths, classes, strict=True) if _is_shown(c)}
  write_tgz(root / "car_ims.tgz", files)


def write_cars_in_halves(root) -> None:
  """cars_train.tgz, cars_test.tgz, car_devkit.tgz, cars_test_annos_withlabels.mat."""
  classes = np.random.default_rng(0).permutation(cars_classes()).tolist()
  halves = {"train": classes[:8144], "test": classes[8144:]}
  devkit = {"cars_meta.mat": {"class_names": class_names()}}
  for half, some in halves.items():
    names = [f"{number:05d}.jpg" for number in range(1, len(some) + 1)]
    content = {"annotations": annotations("fname", names, some)}
    files = {
      f"cars_{half}/{name}": jpeg(number)
      for name, number in zip(names, some, strict=True)
      if _is_shown(number)
    }
    write_tgz(root / f"cars_{half}.tgz", files)
    if half == "train":
      devkit["cars_train_annos.mat"] = content
    else:
      scipy.io.savemat(root / "cars_test_annos_withlabels.mat", content)
  packed = {}
  for name, content in devkit.items():
    file = io.BytesIO()
    scipy.io.savemat(file, content)
    packed[f"devkit/{name}"] = file.getvalue()
  write_tgz(root / "car_devkit.tgz", packed)


WRITE = {
  "sop": write_sop,
  "inshop": write_inshop,
  "cub": write_cub,
  "cars": write_cars,
  "cars in halves": write_cars_in_halves,
}
