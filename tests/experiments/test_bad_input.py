"""Commands that cannot work: the one line that each ends with, and exit code 2."""

import importlib
import json
import shutil
import tarfile
import zipfile

import pytest

from configs import base
from experiments.run import workdir
from tests.experiments.conftest import SHORT, refusal

CONFIGS = {
  "words.py": "no python",
  "lost.txt": "import nowhere",
  "steps.py": "STEPS = 3",
}
# RUN is a short run in PLACE/run on PLACE/pictures, for 8 devices; see `place`. TFDS
# keeps what TFDS makes there, too.
BAD = [
  (
    "train RUN --config.stepz=10",
    "unknown config field stepz; did you mean steps?",
  ),
  (
    "train RUN --config.scale=2",
    "unknown config field scale; did you mean loss.scale?",
  ),
  (
    "train RUN --config.model.depht=2",
    "unknown config field model.depht; did you mean model.depth?",
  ),
  (
    "train RUN --config.los.scale=1",
    "unknown config field los.scale; did you mean loss.scale?",
  ),
  (
    "train RUN --config.steps=ten",
    "--config.steps=ten: expected an integer",
  ),
  (
    "train RUN --config.seed=",
    "--config.seed=: expected an integer",
  ),
  (
    "train RUN --config.loss.scale=big",
    "--config.loss.scale=big: expected a number or none",
  ),
  (
    "train RUN --config.loss.name=tripled",
    "--config.loss.name=tripled: expected center_contrastive or normalized_softmax or "
    "cosface or arcface or proxy_nca or proxy_anchor or soft_triple or cross_entropy "
    "or nt_xent or supcon or contex or contex_p or multi_similarity or triplet or "
    "contrastive or prototypical",
  ),
  (
    "train RUN --config.data.name=imagenet21k",
    "--config.data.name=imagenet21k: expected glyphs or folder or cub or cars or sop "
    "or inshop or biased_glyphs or biased_mnist or omniglot or tfds or utkface or "
    "features",
  ),
  (
    "train RUN --config.recall_at=1;2",
    "--config.recall_at=1;2: expected integers with commas between",
  ),
  (
    "train RUN --config.steps=0",
    "steps=0: expected 1 or more",
  ),
  (
    "train RUN --config.batch_size=0",
    "batch_size=0: expected 1 or more",
  ),
  (
    "train RUN --config.optimizer.learning_rate=-1",
    "optimizer.learning_rate=-1.0: expected a number above 0",
  ),
  (
    "train RUN --config.loss.scale=-1",
    "loss.scale=-1.0: expected a number above 0",
  ),
  (
    "train RUN --config.loss.scale=nan",
    "loss.scale=nan: expected a number above 0",
  ),
  (
    "train RUN --config.loss.momentum=1.5",
    "loss.momentum=1.5: expected 0 to 1",
  ),
  (
    "train RUN --config.loss.sharpness=-1",
    "loss.sharpness=-1.0: expected 0 or more",
  ),
  (
    "train RUN --config.data.validation_fraction=2",
    "data.validation_fraction=2.0: expected 0 to 1",
  ),
  (
    "train RUN --config.model.widths=8",
    "model.widths=(8,): expected 2 numbers",
  ),
  (
    "train RUN --config.loss.first_visit=mix",
    "loss.first_visit=mix with loss.centers=trained: only a bank has visits",
  ),
  (
    "train RUN --config.loss.unvisited=supcon",
    "loss.unvisited=supcon with loss.centers=trained, loss.first_visit=replace: only a "
    "bank with first_visit=replace has classes without a center",
  ),
  (
    "train RUN --config.loss.memory_size=64",
    "loss.memory_size=64 with loss.name=center_contrastive: only contrastive, "
    "multi_similarity, supcon, triplet can be contrasted with a memory",
  ),
  (
    "train RUN --config.loss.name=supcon --config.loss.memory_size=4",
    "loss.memory_size=4 is less than the 8 x 1 rows of a batch: give more, or 0 for no "
    "memory",
  ),
  (
    "train RUN --config.data.views=2 --config.data.view=none",
    "data.views=2 with data.view=none would all be the same: choose a view",
  ),
  (
    "train RUN --config.data.test_views=2 --config.data.view=none",
    "data.test_views=2 with data.view=none would all be the same: choose a view",
  ),
  (
    "train RUN --config.model.name=vit_small"
    " --config.optimizer.backbone_learning_rate=1",
    "optimizer.backbone_learning_rate=1.0: only optimizer.name=adamw has it",
  ),
  (
    "train RUN --config.probe=lbfgs",
    "probe=lbfgs needs test images of the train classes: give --config.probe=none, or "
    "a dataset whose classes are the same in both",
  ),
  (
    "train RUN --config.model.weights=a.pth",
    "model.weights=a.pth: only a ResNet or ViT (model.name) without a projection has a "
    "backbone of its own",
  ),
  (
    "train RUN --config.data.images_per_class=3",
    "batch_size is 8 with images_per_class 3: give images_per_class of 1 or more that "
    "divides it",
  ),
  (
    "train RUN --config.data.images_per_class=100",
    "batch_size is 8 with images_per_class 100: give images_per_class of 1 or more "
    "that divides it",
  ),
  (
    "train RUN --config.batch_size=12",
    "batch_size=12 does not divide over 8 devices; 8 or 16 would",
  ),
  (
    "train RUN --config.batch_size=80",
    "batch_size is 80 with 24 examples: give 1 to 24",
  ),
  (
    "train RUN --config.recall_at=1,8",
    "recall_at=(1, 8) with 7 images to find: give a smaller K, or more images",
  ),
  (
    "train RUN --config.data.validation_fraction=0.9",
    "--config.data.validation_fraction=0.9: fraction 0.9 of 8 classes holds out 7 and "
    "keeps 1: both sides need at least 2; change the fraction, or give 0",
  ),
  (
    "train RUN --config.data.images=none",
    "data.name=folder needs images: add --config.data.images=FOLDER, which holds a "
    "subfolder of images for each class",
  ),
  (
    "train RUN --config.data.images=PLACE/nowhere",
    "PLACE/nowhere is not a folder: give one that holds a folder of images for each "
    "class",
  ),
  (
    "train RUN --config.data.images=PLACE/empty",
    "PLACE/empty holds 0 class folders, expected at least 4: make a folder for each "
    "class, with its images in it",
  ),
  (
    "train RUN --config.data.images=PLACE/file",
    "PLACE/file is not a folder: give one that holds a folder of images for each class",
  ),
  (
    "train RUN --config.data.images=PLACE/few",
    "PLACE/few holds 1 class folders, expected at least 4: make a folder for each "
    "class, with its images in it",
  ),
  (
    "train RUN --config.data.images=PLACE/half",
    "PLACE/half/test holds 0 class folders, expected at least 2: make a folder for "
    "each class, with its images in it",
  ),
  (
    "train RUN --config.data.images=PLACE/single",
    "class 'class_03' in PLACE/single has 1 image files, expected at least 2, since an "
    "image is searched among the others of its class: add images, or delete the folder",
  ),
  (
    "train RUN --config.data.images=PLACE/cut",
    "cannot read image PLACE/cut/class_05/2.png of class class_05 (image file is "
    "truncated): replace or delete it",
  ),
  (
    "train RUN --config.data.images=PLACE/text",
    "cannot read image PLACE/text/class_07/1.png of class class_07 (cannot identify "
    "image file 'PLACE/text/class_07/1.png'): replace or delete it",
  ),
  (
    "train RUN --config.data.name=cub --config.data.images=PLACE/other.zip TFDS",
    "PLACE/other.zip holds no images.txt. Fetch CUB_200_2011.tgz (1,150,585,339 bytes) "
    "from Caltech: https://data.caltech.edu/records/65de6-vp158. Put it in a folder of "
    "yours, packed or unpacked, and name that folder: images=FOLDER (on the command "
    "line --config.data.images=FOLDER)",
  ),
  (
    "train RUN --config.data.name=cars --config.data.images=PLACE/cars.tgz TFDS",
    "PLACE/cars.tgz cannot be read as an archive (Compressed file ended before the "
    "end-of-stream marker was reached): it is cut short or damaged; compare its size "
    "with the published one, and fetch it again",
  ),
  (
    "train --config=configs/glyphs.py",
    "the following arguments are required: --workdir (see --help)",
  ),
  (
    "train --workdir=PLACE/run",
    "the following arguments are required: --config (see --help)",
  ),
  (
    "train --config=PLACE/no.py --workdir=PLACE/run",
    "--config=PLACE/no.py: no such file; configs/glyphs.py is one",
  ),
  (
    "train --config=PLACE/words.py --workdir=PLACE/run",
    "--config=PLACE/words.py is no Python file that runs (SyntaxError: invalid syntax "
    "(words.py, line 1))",
  ),
  (
    "train --config=PLACE/lost.txt --workdir=PLACE/run",
    "--config=PLACE/lost.txt is no Python file that runs (ModuleNotFoundError: No "
    "module named 'nowhere')",
  ),
  (
    "train --config=PLACE/steps.py --workdir=PLACE/run",
    "--config=PLACE/steps.py defines no get_config(); see configs/glyphs.py",
  ),
  (
    "train RUN --stepz=3",
    "unknown argument --stepz=3; did you mean --config.steps? (see --help)",
  ),
  (
    "train RUN --data.images=PLACE/pictures",
    "unknown argument --data.images=PLACE/pictures; did you mean --config.data.images? "
    "(see --help)",
  ),
  (
    "train RUN --worddir=x",
    "unknown argument --worddir=x; did you mean --workdir? (see --help)",
  ),
  (
    "train RUN --config.steps",
    "--config.steps has no value; write --config.steps=VALUE (see --help)",
  ),
  (
    "train RUN --coordinator=localhost:9",
    "--coordinator, --num-processes and --process-id go together: give all three, or "
    "none where JAX finds the processes by itself",
  ),
  (
    "train RUN --coordinator=localhost:9 --num-processes=2 --process-id=2",
    "--process-id=2 of --num-processes=2: expected 0 to 1",
  ),
  (
    "train RUN --workdir=PLACE/thesis",
    "PLACE/thesis is not empty and holds no run; give another --workdir",
  ),
  (
    "train RUN --workdir=PLACE/file",
    "PLACE/file is not empty and holds no run; give another --workdir",
  ),
  (
    "train RUN --workdir=PLACE/file/run",
    "PLACE/file is no folder that can be written to: give another --workdir",
  ),
  (
    "train RUN --workdir=PLACE/claimed",
    "PLACE/claimed holds a run of another config: steps is 2000 there and 12 here, "
    "batch_size is 128 there and 8 here, log_every is 20 there and 1 here, eval_every "
    "is 500 there and 6 here, checkpoint_every is 500 there and 4 here, recall_at is "
    "(1, 2, 4, 8) there and (1, 2) here, data.name is glyphs there and folder here, "
    "data.images is None there and PLACE/pictures here, data.validation_fraction is "
    "0.1 there and 0.25 here; give another --workdir",
  ),
  (
    "train RUN --workdir=PLACE/damaged",
    "PLACE/damaged/config.json is damaged (Unterminated string starting at: line 3 "
    "column 3 (char 17)): delete it where it is empty or cut short and the folder "
    "holds no checkpoint; else write it anew from the run's config",
  ),
  (
    "train RUN --workdir=PLACE/older",
    "PLACE/older/config.json was written by another version, whose fields this one "
    "lacks: loss.warmth; go on with that version, or give another folder",
  ),
  (
    "train RUN --init-from=PLACE/nowhere",
    "PLACE/nowhere/config.json: no such file; give the folder of a run",
  ),
  (
    "train RUN --init-from=PLACE/claimed",
    "init_from=PLACE/claimed holds no checkpoint yet: let its run reach one",
  ),
  (
    "evaluate --workdir=PLACE/nowhere",
    "PLACE/nowhere/config.json: no such file; give the folder of a run",
  ),
  (
    "evaluate --workdir=PLACE/claimed",
    "PLACE/claimed holds no checkpoint yet: let its run reach one",
  ),
  (
    "evaluate --workdir=PLACE/claimed --flap",
    "unknown argument --flap; did you mean --flip? (see --help)",
  ),
  (
    "evaluate --workdir=PLACE/claimed --split=all",
    "--split=all has nothing to score: add --save-embeddings=FOLDER",
  ),
  (
    "evaluate --workdir=PLACE/claimed --config.seed=1",
    "seed is given without --config=FILE",
  ),
  (
    "export --workdir=PLACE/claimed",
    "PLACE/claimed has no result yet: let its run end",
  ),
  (
    "retrieve --workdir=PLACE/nowhere --images=PLACE/pictures --query=PLACE/q.png",
    "PLACE/nowhere/config.json: no such file; give the folder of a run",
  ),
  (
    "retrieve --workdir=PLACE/claimed --query=PLACE/q.png",
    "one of the arguments --images --embeddings is required (see --help)",
  ),
  (
    "retrieve --workdir=PLACE/claimed --images=PLACE/pictures --query=none.png",
    "--query=none.png: no such file",
  ),
  (
    "retrieve --workdir=PLACE/claimed --images=PLACE --query=PLACE/q.png --k=0",
    "--k=0: expected 1 or more",
  ),
  (
    "retrieve --workdir=PLACE/claimed --images=PLACE/nowhere --query=PLACE/q.png",
    "PLACE/nowhere: no such file or folder",
  ),
  (
    "retrieve --workdir=PLACE/claimed --images=PLACE/empty --query=PLACE/q.png",
    "PLACE/empty holds no images: expected files such as .png or .jpg, at any depth",
  ),
  (
    "retrieve --workdir=PLACE/claimed --embeddings=PLACE/thesis --query=PLACE/q.png",
    "PLACE/thesis holds no embeddings: experiments.evaluate --save-embeddings=FOLDER "
    "writes them",
  ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, pictures):
  """The folder that holds what the commands name."""
  root = tmp_path_factory.mktemp("place")
  (root / "pictures").symlink_to(pictures)
  shutil.copy(pictures / "class_00" / "0.png", root / "q.png")
  (root / "empty").mkdir()
  (root / "file").write_text("no folder")
  for name, text in CONFIGS.items():
    (root / name).write_text(text)
  _write_pictures(root, pictures)
  _write_archives(root, pictures)
  _write_runs(root)
  return root


def _write_pictures(root, pictures):
  """Folders of pictures that lack something, or hold something else."""
  shutil.copytree(pictures / "class_00", root / "few" / "class_00")
  shutil.copytree(pictures, root / "half" / "train")
  (root / "half" / "test").mkdir()
  for name in ("single", "cut", "text"):
    shutil.copytree(pictures, root / name)
  for number in (1, 2, 3):
    (root / "single" / "class_03" / f"{number}.png").unlink()
  picture = root / "cut" / "class_05" / "2.png"
  picture.write_bytes(picture.read_bytes()[:-200])
  (root / "text" / "class_07" / "1.png").write_text("no picture")


def _write_archives(root, pictures):
  """One of another dataset, and one cut short."""
  with zipfile.ZipFile(root / "other.zip", "w") as archive:
    archive.writestr("readme.txt", "another dataset")
  with tarfile.open(root / "cars.tgz", "w:gz") as archive:
    archive.add(pictures, "pictures")
  whole = (root / "cars.tgz").read_bytes()
  (root / "cars.tgz").write_bytes(whole[:500])


def _write_runs(root):
  """Folders of runs without a checkpoint, and one of something else."""
  for name in ("claimed", "damaged", "older", "thesis"):
    (root / name).mkdir()
  muon = base.Optimizer(name="muon", learning_rate=0.01)  # as the config of the runs
  workdir.claim(root / "claimed", base.Config(optimizer=muon), [])
  whole = (root / "claimed" / "config.json").read_text()
  (root / "damaged" / "config.json").write_text(whole[:20])
  older = json.loads(whole) | {"loss.warmth": 1}
  (root / "older" / "config.json").write_text(json.dumps(older))
  (root / "thesis" / "chapter.txt").write_text("mine")


@pytest.mark.parametrize(
  ("command", "line"), [pytest.param(*row, id=row[0]) for row in BAD]
)
def test_a_command_that_cannot_work_ends_with_one_line(command, line, place, capsys):
  short = {**SHORT, "data.images": "PLACE/pictures"}
  run = ["--config=configs/glyphs.py --workdir=PLACE/run"]
  run += [f"--config.{field}={value}" for field, value in short.items()]
  command = command.replace("TFDS", "--config.data.data_dir=PLACE/tfds")
  command = command.replace("RUN", " ".join(run)).replace("PLACE", str(place))
  name, *argv = command.split()
  main = importlib.import_module(f"experiments.{name}").main
  expected = f"error: {line}".replace("PLACE", str(place))
  assert refusal(main, argv, capsys) == expected
  assert not (place / "run").exists(), "a refused start leaves nothing behind"
