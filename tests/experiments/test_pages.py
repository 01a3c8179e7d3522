"""Tables in pages: each is what its stored results give, where it belongs."""

import statistics
from pathlib import Path

import pytest

from experiments import center_study, compare, head_study
from experiments.benchmarks import plan
from experiments.comparison import pages, store, tables

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
CONFIGS = {
  "glyphs": "glyphs_comparison",
  "biased_glyphs": "biased_glyphs",
  "omniglot": "omniglot_comparison",
}
PAGES = [path for path in ROOT.rglob("README.md") if pages.markers(path.read_text())]


def expected(asked):
  results = RESULTS / asked.results
  for study in (center_study, head_study, plan):
    if asked.study == study.STUDY:
      return study.table(store.read(results / f"{asked.study}.jsonl"))
  config = ROOT / "configs" / f"{CONFIGS[asked.results]}.py"
  return compare.table(str(config), results, asked)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_of_a_page_is_what_its_results_give(page):
  text = page.read_text()
  assert all(expected(asked) for asked in pages.markers(text))
  assert pages.rewrite(text, expected) == text, "run the study's command with --write"


def test_every_study_is_shown_somewhere():
  shown = {asked[:2] for page in PAGES for asked in pages.markers(page.read_text())}
  stored = {(path.parent.name, path.stem) for path in RESULTS.glob("*/*.jsonl")}
  trials = {("glyphs", "search"), ("omniglot", "search")}
  assert stored - shown == trials, "which `settings` prints"


def test_a_table_is_put_where_the_page_asks_for_it():
  page = "a\n<!-- table: x/one recall@1 minus CCL -->\nold\n<!-- end -->\nb\n"
  page += "<!-- table: y/two -->\n<!-- end -->\nc\n<!-- table: y/3 -->\n<!-- end -->\n"
  asked = [("x", "one", "recall@1 minus CCL"), ("y", "two", ""), ("y", "3", "")]
  assert pages.markers(page) == asked
  made = {"x": "| new |", "y": None}
  written = pages.rewrite(page, lambda marker: made[marker.results])
  assert written == page.replace("old\n", "\n| new |\n\n", 1)
  assert pages.rewrite(written, lambda marker: made[marker.results]) == written


def test_several_metrics_are_ranked_by_the_first(tmp_path):
  scores = {"CCL": (0.2, 0.9), "softmax": (0.4, 0.1)}
  results = [
    {"row": row, "column": "9 steps", "seed": seed, "metrics": {"a": a + seed, "b": b}}
    for row, (a, b) in scores.items()
    for seed in (0, 1)
  ]
  order = tables.Order(["CCL", "softmax"], ["9 steps"])
  table = tables.ranked(results, ["a", "b"], order, ["CCL"]).splitlines()
  assert table[0] == "| method | a, 9 steps | b, 9 steps |"
  assert [line.split(" | ")[0] for line in table[2:]] == ["| softmax", "| **CCL**"]
  assert f"{statistics.mean((0.4, 1.4)):.3f} ± " in table[2]
