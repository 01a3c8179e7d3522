"""Tables of stored results in the pages that show them.

A page marks the place of a table by two lines:

  <!-- table: glyphs/steps recall@1 -->
  <!-- end -->

and a command writes the table between them, so that no number is copied by hand. The
marker names the folder of results, the study, and then the metrics.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(
  r"<!-- table: (?P<results>\w+)/(?P<study>\w+)(?: (?P<shows>[^>]+?))? -->\n"
  r"(?:.*?\n)??<!-- end -->",
  re.S,
)


class Marker(NamedTuple):
  """A table that a page asks for."""

  results: str  # the folder, such as "glyphs"
  study: str
  shows: str  # metrics, with semicolons between


def markers(text: str) -> list[Marker]:
  """The tables that a page asks for."""
  return [_marker(match) for match in _BLOCK.finditer(text)]


def rewrite(text: str, make: Callable[[Marker], str | None]) -> str:
  """The page with new tables; a table stays where `make` returns None."""

  def block(match: re.Match[str]) -> str:
    table = make(_marker(match))
    if table is None:
      return match[0]
    opening = match[0].partition("\n")[0]
    return f"{opening}\n\n{table}\n\n<!-- end -->"

  return _BLOCK.sub(block, text)


def write(paths: list[Path], make: Callable[[Marker], str | None]) -> None:
  """Rewrites the tables of the pages, and prints which pages changed."""
  for path in paths:
    before = path.read_text()
    after = rewrite(before, make)
    path.write_text(after)
    print(f"{path}: {'written' if after != before else 'as it was'}")


def write_study(paths: list[Path], results: str, study: str, table: str) -> None:
  """Rewrites the tables of one study, which has no other table."""
  write(paths, lambda asked: table if asked[:2] == (results, study) else None)


def _marker(match: re.Match[str]) -> Marker:
  return Marker(match["results"], match["study"], match["shows"] or "")
