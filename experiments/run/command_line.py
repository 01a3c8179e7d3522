"""Reads a config file and its overrides from the command line, strictly."""

import argparse
import contextlib
import dataclasses
import difflib
import importlib.util
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs.base import Config

PREFIX = "--config."


class InputError(Exception):
  """Something the user gave cannot be used; the message is one line that says what."""


@contextlib.contextmanager
def exit_on_bad_input() -> Iterator[None]:
  """Ends the program with one line and exit code 2 where input cannot be used.

  To be wrapped around the set-up of a run, whose checks raise ValueError or OSError;
  not around training, where such an error would be a defect and wants its traceback.
  """
  try:
    yield
  except (InputError, ValueError, OSError) as error:
    fail(" ".join(str(error).split()))


def fail(message: str, code: int = 2) -> NoReturn:
  """Prints one line and ends the program."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(code)


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    fail(f"{message} (see --help)")


def parser(module: str, description: str) -> argparse.ArgumentParser:
  """An argument parser whose errors are one line with exit code 2."""
  return _Parser(
    prog=f"python -m experiments.{module}",
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def fields_help() -> str:
  """One line for each field of the config: name, default, meaning, and any choices."""
  source = Path(importlib.util.find_spec("configs.base").origin).read_text()  # pyright: ignore
  comments = {
    line.strip().split(":")[0]: line.split("  # ")[1]
    for line in source.splitlines()
    if "  # " in line
  }
  hints = typing.get_type_hints(Config)
  rows = []
  for field in dataclasses.fields(Config):
    row = f"  {f'{PREFIX}{field.name}={field.default}':<40} {comments[field.name]}"
    hint = hints[field.name]
    if typing.Literal in map(typing.get_origin, (hint, *typing.get_args(hint))):
      row += f" ({_describe(hint)})"
    rows.append(row)
  return "config fields, with the defaults of configs/base.py:\n" + "\n".join(rows)


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, dict[str, str]]:
  """Splits the arguments into known ones and `--config.FIELD=VALUE` overrides."""
  args, rest = parser.parse_known_args(argv)
  overrides = {}
  for argument in rest:
    name, equals, value = argument.removeprefix(PREFIX).partition("=")
    if not argument.startswith(PREFIX):
      known = [o for action in parser._actions for o in action.option_strings]
      parser.error(
        f"unknown argument {argument}{_nearest(argument.split('=')[0], known)}"
      )
    if not equals:
      parser.error(f"{argument} has no value; write {PREFIX}{name}=VALUE")
    overrides[name] = value
  return args, overrides


def load_config(path: str, overrides: dict[str, str]) -> Config:
  """The config of a file, with fields replaced.

  Args:
    path: a Python file that defines `get_config() -> Config`.
    overrides: field name -> value as written on the command line.

  Raises:
    InputError: for a missing file, an unknown field (naming the nearest), or a value of
      the wrong type.
  """
  config = load_module(path).get_config()
  hints = typing.get_type_hints(Config)
  values = {}
  for name, text in overrides.items():
    if name not in hints:
      raise InputError(f"unknown config field {name}{_nearest(name, hints)}")
    values[name] = _parse_value(name, text, hints[name])
  return dataclasses.replace(config, **values)


def load_module(path: str) -> Any:
  """The module of a config file.

  Raises:
    InputError: for a missing file.
  """
  if not Path(path).is_file():
    raise InputError(f"--config={path}: no such file; configs/glyphs.py is one")
  spec = importlib.util.spec_from_file_location("config", path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _nearest(name: str, known: typing.Iterable[str]) -> str:
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f"; did you mean {close[0]}?" if close else ""


def _is_union(hint: Any) -> bool:
  # `Literal[...] | None` is typing's own union before Python 3.14.
  return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _describe(hint: Any) -> str:
  if typing.get_origin(hint) is typing.Literal:
    return " or ".join(map(str, typing.get_args(hint)))
  if typing.get_origin(hint) is tuple:
    return "integers with commas between"
  if _is_union(hint):
    return " or ".join(_describe(part) for part in typing.get_args(hint))
  if hint is bool:
    return "true or false"
  return {int: "an integer", float: "a number", str: "text", type(None): "none"}[hint]


def _parse_value(name: str, text: str, hint: Any) -> Any:
  """Reads text as the type of a field."""
  try:
    return _read(text, hint)
  except ValueError:
    raise InputError(f"{PREFIX}{name}={text}: expected {_describe(hint)}") from None


def _read(text: str, hint: Any) -> Any:
  if _is_union(hint):
    if text.lower() == "none":
      return None
    (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
  if typing.get_origin(hint) is typing.Literal:
    return next((c for c in typing.get_args(hint) if str(c) == text), None) or _refuse()
  if typing.get_origin(hint) is tuple:
    return tuple(int(part) for part in text.split(",") if part)
  if hint is bool:
    known = {"true": True, "false": False}
    return known[text.lower()] if text.lower() in known else _refuse()
  return hint(text)


def _refuse() -> NoReturn:
  raise ValueError
