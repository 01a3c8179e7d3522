"""Commands that cannot work: each is to end with one line and exit code 2.

`experiments.benchmarks.faults` runs them.
"""

import json
import os
import pathlib
import random
import shutil
import tarfile
import time
import zipfile
from typing import Any, NamedTuple


class Bad(NamedTuple):
  """A command, and a part of the line with which it is to end."""

  command: str
  argv: list[str]
  told: str


def inputs(
  place: pathlib.Path, size: int, rng: random.Random, until: float
) -> dict[str, Any]:
  """Runs commands of `bad` and counts those that end as they should."""
  from experiments.benchmarks import faults

  right, wrong = 0, []
  for number, (name, case) in enumerate(list(bad(place).items())[:size]):
    if time.time() > until:
      break
    log = place / f"{number}.log"
    child = faults.start(case.argv, log, command=case.command)
    code = faults.wait(child, 300)
    text = log.read_text(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if code == 2 and len(lines) == 1 and case.told in lines[0]:
      right += 1
    else:
      faults.end(child)
      wrong.append(name)
      print(f"inputs: {name}: code {code}: {lines or text[-400:]}", flush=True)
  return {"inputs": right + len(wrong), "right": right, "wrong": wrong, "bad": wrong}


def bad(place: pathlib.Path) -> dict[str, Bad]:
  """Name -> a command that cannot work; what it reads lies below `place`."""
  from experiments.benchmarks import faults

  place.mkdir(parents=True, exist_ok=True)
  whole, _ = faults.undisturbed(place)
  images = place / "pictures"
  train = {**_fields(images, place), **_folders(images, place)}
  cases = {
    name: Bad("train", faults.arguments(**{"images": images, **arguments}), told)
    for name, (arguments, told) in train.items()
  }
  return cases | _commands(images, place) | _of_a_run(whole, images, place)


def _fields(images: pathlib.Path, place: pathlib.Path) -> dict[str, tuple[dict, str]]:
  """Fields of a config that are misspelled, out of bounds or at odds."""
  fresh = {"workdir": place / "fresh"}
  given = {
    "no such field": ("loss.scal", 1, "did you mean loss.scale"),
    "no such section": ("los.scale", 1, "did you mean"),
    "a word for a number": ("steps", "many", "steps=many"),
    "a number out of bounds": ("batch_size", 0, "batch_size=0"),
    "a negative rate": ("optimizer.learning_rate", -1, "learning_rate=-1"),
    "not a number": ("loss.scale", "nan", "loss.scale=nan"),
    "no such loss": ("loss.name", "softmax", "loss.name=softmax"),
    "no such dataset": ("data.name", "imagenet", "data.name=imagenet"),
    "a depth beyond the images": ("recall_at", "1,1000", "recall_at=(1, 1000)"),
    "a memory too small": ("loss.memory_size", 4, "loss.memory_size=4"),
    "a memory for a loss without pairs": ("loss.memory_size", 64, "memory_size=64"),
    "views that are all the same": ("data.views", 2, "data.views=2"),
    "a probe of other classes": ("probe", "lbfgs", "probe=lbfgs"),
    "weights of a network without": ("model.weights", "a.pth", "model.weights=a.pth"),
    "more images than a class has": ("data.images_per_class", 100, "images_per_class"),
    "a fraction above one": ("data.validation_fraction", 2, "validation_fraction=2"),
    "no value": ("seed", "", "seed="),
  }
  more = {
    "views that are all the same": {"data.view": "none"},
    "a memory too small": {"loss.name": "supcon", "loss.centers": "trained"},
  }
  return {
    name: ({**fresh, field: value, **more.get(name, {})}, told)
    for name, (field, value, told) in given.items()
  }


def _folders(images: pathlib.Path, place: pathlib.Path) -> dict[str, tuple[dict, str]]:
  """Folders of images that lack something, or hold something else."""
  (place / "empty").mkdir()
  (place / "file").write_text("no folder")
  few, single, cut, text = (place / n for n in ("few", "single", "cut", "text"))
  shutil.copytree(images / "class_00", few / "class_00")
  for folder in (single, cut, text):
    shutil.copytree(images, folder)
  for name in ("1.png", "2.png", "3.png"):
    (single / "class_03" / name).unlink()
  picture = cut / "class_05" / "2.png"
  picture.write_bytes(picture.read_bytes()[:-200])
  (text / "class_07" / "1.png").write_text("no picture")
  fresh = {"workdir": place / "fresh"}
  given = {
    "no such folder": (place / "nowhere", "is not a folder"),
    "an empty folder": (place / "empty", "holds 0 class folders"),
    "a file for a folder": (place / "file", "is not a folder"),
    "one class": (few, "holds 1 class folders"),
    "a class of one picture": (single, "has 1 image files"),
    "a truncated picture": (cut, "2.png"),
    "a text that is called .png": (text, "1.png"),
  }
  found = {name: ({**fresh, "images": at}, told) for name, (at, told) in given.items()}
  found["an archive for the wrong dataset"] = (
    {**fresh, "images": _archive(place), "data.name": "cub"},
    "other.zip",
  )
  found["an archive cut short"] = (
    {**fresh, "images": _cut_archive(place), "data.name": "cars"},
    "cars.tgz",
  )
  return found


def _archive(place: pathlib.Path) -> pathlib.Path:
  with zipfile.ZipFile(place / "other.zip", "w") as archive:
    archive.writestr("readme.txt", "another dataset")
  return place / "other.zip"


def _cut_archive(place: pathlib.Path) -> pathlib.Path:
  path = place / "cars.tgz"
  with tarfile.open(path, "w:gz") as archive:
    archive.add(place / "pictures", "pictures")
  path.write_bytes(path.read_bytes()[:500])
  return path


def _commands(images: pathlib.Path, place: pathlib.Path) -> dict[str, Bad]:
  """Command lines that lack something, or name something that is not there."""
  (place / "config.py").write_text("no python")
  (place / "other.py").write_text("STEPS = 3\n")
  folder = [f"--workdir={place / 'fresh'}"]
  config = "--config=configs/glyphs.py"
  address = "--coordinator=localhost:9"
  return {
    "no workdir": Bad("train", [config], "--workdir"),
    "no config": Bad("train", folder, "--config"),
    "no such config": Bad("train", ["--config=no.py", *folder], "no such file"),
    "a config of other words": Bad(
      "train", [f"--config={place / 'config.py'}", *folder], "config.py"
    ),
    "a config without get_config": Bad(
      "train", [f"--config={place / 'other.py'}", *folder], "other.py"
    ),
    "no such argument": Bad("train", [config, *folder, "--stepz=3"], "--stepz"),
    "half an address": Bad("train", [config, *folder, address], "go together"),
    "a process beyond the last": Bad(
      "train",
      [config, *folder, address, "--num-processes=2", "--process-id=2"],
      "expected 0 to 1",
    ),
    "no run to evaluate": Bad("evaluate", folder, "config.json: no such file"),
    "no run to retrieve from": Bad(
      "retrieve",
      [*folder, f"--images={images}", f"--query={images / 'class_00' / '0.png'}"],
      "config.json: no such file",
    ),
  }


def _of_a_run(
  whole: pathlib.Path, images: pathlib.Path, place: pathlib.Path
) -> dict[str, Bad]:
  """Commands on the folder of a run that do not fit it."""
  from experiments.benchmarks import faults

  def copied(name: str) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(whole, place / f"run_{name}"))

  unsaved, cut, older = copied("unsaved"), copied("cut"), copied("older")
  shutil.rmtree(unsaved / "checkpoints")
  config = cut / "config.json"
  config.write_text(config.read_text()[:20])
  fields = json.loads((older / "config.json").read_text())
  (older / "config.json").write_text(json.dumps(fields | {"loss.warmth": 1}))
  for folder in (unsaved, cut, older):
    (folder / "result.json").unlink()
  other = place / "other"
  other.mkdir()
  (other / "notes.txt").write_text("mine")
  query = f"--query={images / 'class_00' / '0.png'}"
  run = f"--workdir={whole}"
  return {
    "a run of another config": Bad(
      "train", faults.arguments(images, whole, steps=13), "steps is 8 there"
    ),
    "a folder of something else": Bad(
      "train", faults.arguments(images, other), "is not empty and holds no run"
    ),
    "a damaged config.json": Bad("train", faults.arguments(images, cut), "is damaged"),
    "a config.json of another version": Bad(
      "train", faults.arguments(images, older), "was written by another version"
    ),
    "a run without a checkpoint": Bad(
      "evaluate", [f"--workdir={unsaved}"], "holds no checkpoint"
    ),
    "no such query": Bad(
      "retrieve", [run, f"--images={images}", "--query=none.png"], "none.png"
    ),
    "no such pictures": Bad(
      "retrieve", [run, f"--images={place / 'nowhere'}", query], "nowhere"
    ),
    "embeddings that are none": Bad(
      "retrieve", [run, f"--embeddings={other}", query], "holds no embeddings"
    ),
  } | ({} if os.geteuid() == 0 else _read_only(images, place))


def _read_only(images: pathlib.Path, place: pathlib.Path) -> dict[str, Bad]:
  """For any user but root, who may write everywhere."""
  from experiments.benchmarks import faults

  locked = place / "locked"
  locked.mkdir(mode=0o500)
  argv = faults.arguments(images, locked / "run")
  return {"a folder that is read-only": Bad("train", argv, "no folder that can be")}
