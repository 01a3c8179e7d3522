"""The reference: a page of each module, examples that run, and no dead link."""

import doctest
import html.parser
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.font_manager
import pytest
import termcolor

import ccl_jax
from ccl_jax.data.sources import biased_glyphs, omniglot
from tests.data import stand_ins
from tests.data.sources import test_omniglot

ROOT = Path(__file__).parents[1]
# The command of the README, but for the folder.
ROOMS = (
  "data",
  "data.sources",
  "labels",
  "models",
  "probe",
  "report",
  "training",
  "vectors",
)
PDOC = ["-m", "pdoc", "--math", "--docformat", "google", "ccl_jax"]
MODULES = [name for _, name, _ in pkgutil.walk_packages(ccl_jax.__path__, "ccl_jax.")]
# What their examples call "datasets", where a reader has what TFDS has prepared.
SOURCES = "ccl_jax.data.sources."


def public(module):
  """Name -> function or class of a module's page."""
  names = getattr(module, "__all__", [n for n in vars(module) if n[0] != "_"])
  found = {name: getattr(module, name) for name in names}
  return {
    name: value
    for name, value in found.items()
    if (inspect.isroutine(value) or inspect.isclass(value))
    and getattr(value, "__module__", None) == module.__name__
  }


@pytest.fixture(scope="session")
def datasets(tmp_path_factory, archives):
  """A folder of what a reader has downloaded, but tiny: datasets/ and an archive."""
  folder = tmp_path_factory.mktemp("reader")
  small = {"size": 28, "channels": 1, "counts": {"train": 80, "test": 40}}
  stand_ins.write(folder / "datasets", "mnist", "3.0.1", **small)
  test_omniglot.write(folder / "datasets", drawers=True)
  for name in ("cub", "cars", "sop", "inshop"):
    (folder / name).symlink_to(archives(name))
  return folder


@pytest.fixture
def tiny(request, monkeypatch):
  """The counts of the tiny datasets, and fewer drawings, where sources are shown."""
  if not request.node.callspec.params["name"].startswith(SOURCES):
    return
  monkeypatch.chdir(request.getfixturevalue("datasets"))
  monkeypatch.setattr(omniglot, "COUNTS", test_omniglot.COUNTS)
  copies = {"train": range(5), "test": range(128, 138)}
  monkeypatch.setattr(biased_glyphs, "_COPIES", copies)
  # TFDS says once that it prepares something, and where.
  monkeypatch.setattr(termcolor, "cprint", lambda *args, **options: None)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_example_that_prints_what_it_says(name):
  module = importlib.import_module(name)
  for shown, value in public(module).items():
    assert ">>> " in (inspect.getdoc(value) or ""), f"{name}.{shown} has no example"
  failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
  assert failed == 0


class Links(html.parser.HTMLParser):
  """The links of a page, and the places that links can lead to."""

  def __init__(self, page):
    super().__init__()
    self.links, self.places = [], set()
    self.feed(page.read_text())

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag == "a" and attrs.get("href"):
      self.links.append(attrs["href"])
    if attrs.get("id"):
      self.places.add(attrs["id"])


def test_the_pages_are_made_without_a_warning_and_their_links_lead_somewhere(tmp_path):
  # Its list of fonts is then in the cache: pdoc warns where matplotlib asks fc-list.
  assert matplotlib.font_manager.fontManager
  rooms = [f"ccl_jax.{room}" for room in ROOMS]
  command = [sys.executable, "-W", "error", *PDOC, *rooms, "-o", str(tmp_path)]
  run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert run.returncode == 0 and not run.stderr, run.stderr
  pages = {path.resolve(): Links(path) for path in tmp_path.rglob("*.html")}
  made = {path.relative_to(tmp_path.resolve()).as_posix() for path in pages}
  # What is in the files of losses/ has its place on their package's page.
  asked = {name for name in MODULES if not name.startswith("ccl_jax.losses.")}
  assert {f"{name.replace('.', '/')}.html" for name in asked} <= made
  found = {}
  for path, page in pages.items():
    for link in page.links:
      if link.startswith("http"):
        continue
      target, _, place = link.partition("#")
      there = (path.parent / target).resolve() if target else path
      assert there in pages, f"{path.name}: {link}"
      assert not place or place in pages[there].places, f"{path.name}: {link}"
      found.setdefault(path, set()).add(there)
  # And from the first page each of the others can be found.
  seen, ways = set(), [(tmp_path / "ccl_jax.html").resolve()]
  while ways:
    if (way := ways.pop()) not in seen:
      seen.add(way)
      ways += found.get(way, ())
  assert not {path.name for path in pages.keys() - seen} - {"index.html"}


def test_formulas_hold_nothing_that_markdown_takes_for_its_own():
  """A line that begins with a sign would be a list, and a backslash is an escape."""
  found = 0
  for path in (ROOT / "ccl_jax").rglob("*.py"):
    for formula in re.findall(
      r"^( *)\.\. math::((?:.*\n\1 +.+)+|.*)", path.read_text(), re.MULTILINE
    ):
      found += 1
      bad = re.search(r"\n *[-+*] |\\[\\{}_!.#]", formula[1])
      assert not bad, f"{path}: {formula[1]}"
  assert found > 10


def test_the_readme_shows_the_command_that_makes_the_pages():
  command = f"python {' '.join(PDOC)} ccl_jax.{{{','.join(ROOMS)}}}"
  assert command in (ROOT / "README.md").read_text()
