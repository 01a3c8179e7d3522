"""Bad input ends with one line that says what to do, and exit code 2."""

import ast
import re
from pathlib import Path

import jax
import pytest
from PIL import Image

from configs import base
from configs.base import Config, Data, Loss, Model
from experiments import evaluate, retrieve, train
from experiments.run import assemble, command_line
from experiments.run.objective import BY_LABEL, BY_VIEW, OVER_CLASSES, settings_of

ROOT = Path(__file__).parents[3]


def refusal(main, argv, capsys):
  """The one line that a refused command prints."""
  with pytest.raises(SystemExit) as stop:
    main(argv)
  assert stop.value.code == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
  assert len(lines) == 1
  return lines[0]


@pytest.mark.parametrize(
  ("field", "value", "says"),
  [
    ("stepz", "10", "unknown config field stepz; did you mean steps?"),
    ("steps", "ten", "--config.steps=ten: expected an integer"),
    ("loss.scale", "big", "--config.loss.scale=big: expected a number"),
    (
      "loss.name",
      "tripled",
      "expected center_contrastive or normalized_softmax or cosface",
    ),
    ("recall_at", "1;2", "expected integers with commas between"),
    ("batch_size", "12", "batch_size=12 does not divide over 8 devices; 8 or 16"),
    ("batch_size", "80", "batch_size is 80 with 24 examples"),
    ("data.validation_fraction", "0.9", "both sides need at least 2"),
    ("recall_at", "1,8", "recall_at=(1, 8) with 7 images to find: give a smaller K"),
    ("data.images", "/nowhere", "/nowhere is not a folder"),
    ("data.images", "none", "add --config.data.images=FOLDER"),
    ("steps", "0", "steps=0: expected 1 or more"),
    ("loss.scale", "-1.0", "scale=-1.0: expected a number above 0"),
    ("model.widths", "8", "model.widths=(8,): expected 2 numbers"),
    ("loss.momentum", "1.5", "momentum=1.5: expected 0 to 1"),
    (
      "data.images_per_class",
      "3",
      "batch_size is 8 with images_per_class 3: give images",
    ),
    ("loss.sharpness", "-1", "loss.sharpness=-1.0: expected 0 or more"),
    ("loss.first_visit", "mix", "first_visit=mix with loss.centers=trained: only"),
    ("loss.margin", "nan", "margin=nan: expected a finite number"),
    ("loss.memory_size", "64", "size=64 with loss.name=center_contrastive: only"),
    ("scale", "2", "unknown config field scale; did you mean loss.scale?"),
    ("model.depht", "2", "model.depht; did you mean model.depth?"),
  ],
)
def test_a_bad_field_is_refused(field, value, says, arguments, capsys, tmp_path):
  assert says in refusal(train.main, arguments(**{field: value}), capsys)
  assert not (tmp_path / "run").exists(), "a refused start must leave nothing behind"


def test_a_memory_below_a_batch_is_refused():
  with pytest.raises(ValueError, match="memory_size=255 is less than the 64 x 4 rows"):
    Config(batch_size=64, data=Data(views=4), loss=Loss(name="supcon", memory_size=255))


@pytest.mark.parametrize("loss", ["cross_entropy", "supcon", "contex", "proxy_anchor"])
def test_a_sample_of_classes_for_a_loss_that_takes_none_is_refused(loss):
  says = f"sample_rate=0.5 with loss.name={loss}: only arcface, center_contr"
  with pytest.raises(ValueError, match=says):
    assemble.make_objective(Config(loss=Loss(name=loss, sample_rate=0.5)), 10)


def test_a_memory_has_the_size_and_length_of_the_config():
  config = Config(model=Model(dim=12), loss=Loss(name="supcon", memory_size=300))
  _, state = assemble.make_objective(config, 10).init(jax.random.key(0))
  assert state.embeddings.shape == (300, 12)


def test_a_bad_argument_is_refused(arguments, capsys):
  line = refusal(train.main, [*arguments(), "--worddir=x"], capsys)
  assert "unknown argument --worddir=x; did you mean --workdir?" in line
  line = refusal(train.main, [*arguments(), "--config.steps"], capsys)
  assert "write --config.steps=VALUE" in line
  line = refusal(train.main, ["--config=nothing.py", "--workdir=x"], capsys)
  assert "--config=nothing.py: no such file" in line
  assert "--workdir" in refusal(train.main, ["--config=configs/glyphs.py"], capsys)


def test_a_class_with_one_image_is_named(arguments, pictures, tmp_path, capsys):
  lonely = tmp_path / "pictures"
  for path in sorted(pictures.rglob("*.png")):
    if path.parent.name != "class_03" or path.name == "0.png":
      (lonely / path.parent.name).mkdir(parents=True, exist_ok=True)
      (lonely / path.parent.name / path.name).write_bytes(path.read_bytes())
  line = refusal(train.main, arguments(**{"data.images": lonely}), capsys)
  assert "class_03" in line and "1 image" in line


def test_an_unreadable_image_is_named(arguments, pictures, tmp_path, capsys):
  damaged = tmp_path / "pictures"
  for path in pictures.rglob("*.png"):
    (damaged / path.parent.name).mkdir(parents=True, exist_ok=True)
    (damaged / path.parent.name / path.name).write_bytes(path.read_bytes())
  (damaged / "class_05" / "2.png").write_bytes(b"not a picture")
  line = refusal(train.main, arguments(**{"data.images": damaged}), capsys)
  assert str(Path("class_05", "2.png")) in line


def test_an_empty_split_is_refused(arguments, tmp_path, capsys):
  root = tmp_path / "pictures"
  (root / "test").mkdir(parents=True)
  for label in ("a", "b"):
    (root / "train" / label).mkdir(parents=True)
    for copy in range(2):
      Image.new("L", (32, 32)).save(root / "train" / label / f"{copy}.png")
  line = refusal(train.main, arguments(**{"data.images": root}), capsys)
  assert str(root / "test") in line and "0 class folders" in line


def test_the_folder_of_another_config_is_refused(arguments, capsys, tmp_path):
  train.main(arguments())
  capsys.readouterr()
  line = refusal(train.main, arguments(**{"loss.scale": "7.5"}), capsys)
  assert "loss.scale is None there and 7.5 here" in line
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "thesis.txt").write_text("mine")
  line = refusal(train.main, arguments(workdir=tmp_path / "other"), capsys)
  assert "is not empty and holds no run" in line


def test_evaluate_and_retrieve_refuse_what_is_no_run(tmp_path, capsys, pictures):
  assert "no such file" in refusal(evaluate.main, [f"--workdir={tmp_path}"], capsys)
  query = next(iter(pictures.rglob("*.png")))
  argv = [f"--workdir={tmp_path}", f"--images={pictures}", f"--query={query}"]
  assert "no such file" in refusal(retrieve.main, argv, capsys)
  line = refusal(evaluate.main, [f"--workdir={tmp_path}", "--x"], capsys)
  assert "unknown argument --x" in line


def test_overrides_take_the_type_of_their_field():
  config = command_line.load_config(
    str(ROOT / "configs" / "glyphs.py"),
    {
      "steps": "7",
      "loss.scale": "2",
      "recall_at": "1,10",
      "data.fonts": "none",
      "data.images": "a=b",
      "data.channels": "3",
    },
  )
  assert (config.steps, config.loss.scale, config.recall_at) == (7, 2.0, (1, 10))
  assert (config.data.fonts, config.data.images, config.data.channels) == (
    None,
    "a=b",
    3,
  )
  assert isinstance(config.loss.scale, float)


def test_help_names_every_field_with_its_default_and_meaning(capsys):
  with pytest.raises(SystemExit) as stop:
    train.main(["--help"])
  assert stop.value.code == 0
  shown = capsys.readouterr().out
  assert max(map(len, shown.splitlines())) <= 100
  for name, default in base.fields(Config()).items():
    written = command_line._write(default)
    assert re.search(rf"--config\.{name}={re.escape(written)}\s+\w", shown), name


@pytest.mark.parametrize("value", [True, 3, 0.5, "x", (), (3,), (1, 2)])
def test_help_writes_a_default_as_the_command_line_reads_it(value):
  hint = tuple[int, ...] if isinstance(value, tuple) else type(value) | None
  assert command_line._read(command_line._write(value), hint) == value


def fields_read(code):
  """Full names of what is read of `config`, and not just put into a message."""
  tree = ast.parse(code)
  said = (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))
  in_messages = {id(node) for message in said for node in ast.walk(message)}
  for node in ast.walk(tree):
    match node:
      case ast.Attribute(
        value=ast.Attribute(value=ast.Name(id="config"), attr=section), attr=name
      ) if isinstance(node.ctx, ast.Load) and section in base.SECTIONS:
        if id(node) not in in_messages:
          yield f"{section}.{name}"
      case ast.Attribute(value=ast.Name(id="config"), attr=name, ctx=ast.Load()):
        if id(node) not in in_messages:
          yield name


def settings_of_losses():
  """What the losses read by the names of their arguments."""
  losses = [*OVER_CLASSES.values(), *BY_LABEL.values(), *BY_VIEW.values()]
  return {f"loss.{name}" for loss in losses for name in settings_of(loss)}


def test_every_field_is_read_somewhere():
  sources = (path.read_text() for path in (ROOT / "experiments").rglob("*.py"))
  read = {name for code in sources for name in fields_read(code)}
  read |= settings_of_losses()
  dead = [name for name in base.fields(Config()) if name not in read]
  assert not dead, f"fields of configs/base.py that no code reads: {dead}"


@pytest.mark.parametrize(
  ("code", "read"),
  [
    ("train(config.steps)", {"steps"}),
    ("train(config.steps_done)", {"steps_done"}),
    ("train(config.loss.scale)", {"loss", "loss.scale"}),
    ("config.loss.scale = 7", {"loss"}),
    ("config.steps = 7", set()),
    ("dataclasses.replace(config, steps=7)", set()),
    ("getattr(config, 'steps')", set()),
    ("# config.steps", set()),
    ("raise ValueError(f'steps={config.steps}')", set()),
  ],
)
def test_what_counts_as_reading_a_field(code, read):
  assert {*fields_read(code)} == read


CONFIGS = [
  path
  for path in sorted((ROOT / "configs").glob("*.py"))
  if path.stem not in ("base", "comparison", "__init__")
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_makes_an_objective(path):
  module = command_line.load_module(str(path))
  configs = [module.get_config()] if hasattr(module, "get_config") else []
  if hasattr(module, "get_comparison"):
    configs += module.get_comparison().methods.values()
  assert configs
  for config in configs:
    assert assemble.make_objective(config, 10, None).apply
  assert re.search(r"Command: python -m experiments\.\w+ --config", path.read_text())


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("no python", "is no Python file that runs (SyntaxError: "),
    ("import nowhere", "(ModuleNotFoundError: No module named 'nowhere')"),
    ("STEPS = 3", "defines no get_config(); see configs/glyphs.py"),
  ],
)
@pytest.mark.parametrize("name", ["config.py", "config.txt"])
def test_a_file_that_is_no_config_is_one_line(tmp_path, capsys, name, text, message):
  (tmp_path / name).write_text(text)
  argv = [f"--config={tmp_path / name}", f"--workdir={tmp_path / 'run'}"]
  assert message in refusal(train.main, argv, capsys)
