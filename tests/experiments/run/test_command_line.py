"""Configs from files and from the command line, and what reads their fields."""

import ast
import re
from pathlib import Path

import jax
import pytest

from configs import base
from configs.base import Config, Data, Loss, Model
from experiments import train
from experiments.run import assemble, command_line
from experiments.run.objective import BY_LABEL, BY_VIEW, OVER_CLASSES, settings_of

ROOT = Path(__file__).parents[3]


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
