"""Reads a config file and its overrides from the command line, strictly."""

import argparse
import contextlib
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs import base
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


class Failed(SystemExit):
  """The end of the program, once its reason is printed; `told` is the reason."""

  def __init__(self, told: str, code: int):
    super().__init__(code)
    self.told, self.exit_code = told, code


def fail(message: str, code: int = 2) -> NoReturn:
  """Prints one line and ends the program."""
  print(f"error: {message}", file=sys.stderr)
  raise Failed(message, code)


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
  """A group for each section of the config: a field's default, meaning, and choices."""
  lines = ["config fields, with the defaults of configs/base.py:"]
  values, hints = base.fields(base.Config()), base.hints()
  comments = _comments(base.Config, "") | {
    name: comment
    for section, schema in base.SECTIONS.items()
    for name, comment in _comments(schema, f"{section}.").items()
  }
  group = None
  for name, value in values.items():
    section = name.rpartition(".")[0]
    if section != group:
      title = f"{section}: {base.SECTIONS[section].__doc__}" if section else "the run"
      lines += ["", title.splitlines()[0]]
      group = section
    meaning, hint = comments[name], hints[name]
    if typing.Literal in map(typing.get_origin, (hint, *typing.get_args(hint))):
      meaning += f" ({_describe(hint)})"
    indent = " " * 41
    about = textwrap.fill(meaning, 100, initial_indent=indent, subsequent_indent=indent)
    field = f"  {PREFIX}{name}={_write(value)}"
    if len(field) < 40:
      lines.append(field.ljust(41) + about.lstrip())
    else:
      lines += [field, about]
  return "\n".join(lines)


def _comments(schema: type, prefix: str) -> dict[str, str]:
  """Full name -> the comment that ends a field's definition."""
  source, found = inspect.getsource(schema), {}
  for field in dataclasses.fields(schema):
    # A field of many choices ends some lines after its name.
    match = re.search(rf"^  {field.name}: .*?  # (.*?)$", source, re.M | re.S)
    if match and field.name not in base.SECTIONS:
      found[prefix + field.name] = match[1]
  return found


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, dict[str, str]]:
  """Splits the arguments into known ones and `--config.SECTION.FIELD=VALUE`."""
  args, rest = parser.parse_known_args(argv)
  overrides = {}
  for argument in rest:
    name, equals, value = argument.removeprefix(PREFIX).partition("=")
    if not argument.startswith(PREFIX):
      known = {o: o for action in parser._actions for o in action.option_strings}
      known |= {f"--{field}": f"{PREFIX}{field}" for field in base.hints()}
      near = _nearest(argument.split("=")[0], known)
      parser.error(f"unknown argument {argument}{near}")
    if not equals:
      parser.error(f"{argument} has no value; write {PREFIX}{name}=VALUE")
    overrides[name] = value
  return args, overrides


def load_config(path: str, overrides: dict[str, str]) -> Config:
  """The config of a file, with fields replaced.

  Args:
    path: a Python file that defines `get_config() -> Config`.
    overrides: full name of a field -> value as written on the command line.

  Raises:
    InputError: for a file that is missing or no config, an unknown field (naming the
      nearest), or a value of the wrong type.
  """
  module, hints, values = load_module(path), base.hints(), {}
  if not callable(getattr(module, "get_config", None)):
    raise InputError(f"--config={path} defines no get_config(); see configs/glyphs.py")
  config = module.get_config()
  for name, text in overrides.items():
    if name not in hints:
      raise InputError(f"unknown config field {name}{_nearest_field(name, hints)}")
    values[name] = _parse_value(name, text, hints[name])
  return base.replace(config, values)


def load_module(path: str) -> Any:
  """The module of a config file.

  Raises:
    InputError: for a missing file, or one that does not run.
  """
  if not Path(path).is_file():
    raise InputError(f"--config={path}: no such file; configs/glyphs.py is one")
  loader = importlib.machinery.SourceFileLoader("config", path)  # of any extension
  spec = importlib.util.spec_from_file_location("config", path, loader=loader)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    told = f"{type(error).__name__}: {error}"
    raise InputError(f"--config={path} is no Python file that runs ({told})") from error
  return module


def _nearest_field(name: str, known: typing.Iterable[str]) -> str:
  """The field of that name in another section, or else the one spelled nearest."""
  last = name.rpartition(".")[2]
  same = [full for full in known if full.rpartition(".")[2] == last]
  if same:
    return f"; did you mean {same[0]}?"
  return _nearest(name, {full: full for full in known})


def _nearest(name: str, known: Mapping[str, str]) -> str:
  """A hint at what `known` has for the name that is spelled most like this one."""
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return f"; did you mean {known[close[0]]}?" if close else ""


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


def _write(value: Any) -> str:
  """A value as the command line would read it."""
  if isinstance(value, tuple):
    return ",".join(map(str, value))
  return str(value).lower() if value is None or isinstance(value, bool) else str(value)


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
