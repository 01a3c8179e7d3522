"""What the README shows is what its code prints."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest

import ccl_jax

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text()
PAGES = [ROOT / "README.md", *ROOT.glob("experiments/**/README.md")]


def test_the_examples_print_what_their_comments_say(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code = "".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
  with jax.numpy_rank_promotion("allow"):  # as a reader has it
    exec(code, {})
  printed = capsys.readouterr().out.splitlines()
  said = re.findall(r"print\(.*\)  # (.*)", code)
  assert len(said) == 3
  assert printed == said


def anchors(page):
  """The headings of a page as the addresses that GitHub gives them."""
  headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
  links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
  for link in links:
    if link.startswith("http"):
      continue
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists(), link
    assert not anchor or anchor in anchors(target), link


def test_every_module_that_the_readme_names_is_there():
  for name in {*re.findall(r"`(ccl_jax\.[a-z_]+)`", README)}:
    module = name.rpartition(".")[2]
    assert module in ccl_jax.__all__ or importlib.util.find_spec(name), name
  # Those that need JAX alone come with `import ccl_jax`.
  for path in ROOT.glob("ccl_jax/[a-z]*.py"):
    light = path.stem not in ("probe", "vectors", "labels")
    assert (path.stem in ccl_jax.__all__) == light, path.stem
