"""Tunes methods alike, trains each over several seeds, and prints tables.

  python -m experiments.compare --config=configs/biased_glyphs.py \\
    --results=experiments/results/biased_glyphs

The config file defines `get_comparison() -> Comparison`, and perhaps `get_studies()`,
further comparisons by name for --study. Each run adds a line of JSON to the file of its
study; a run that is there is not done again, so the same command goes on where it was
stopped. Methods with a search space are tuned first, all with the
same number of random trials, on validation classes; the best trial's settings are then
trained and tested with each seed.

To use several devices, start the command once for each (with CUDA_VISIBLE_DEVICES,
say): they share the runs among them. With --table-only, all is made from the stored
files, without training; --write puts the tables into the pages that ask for them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from configs.comparison import Comparison
from experiments.comparison import jobs, pages, store, tables
from experiments.run import command_line
from experiments.run.command_line import InputError, exit_on_bad_input

MAIN, SEARCH = "main", "search.jsonl"  # the comparison itself, and its trials
CENTERS = "center_study"  # which another command makes


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("compare", __doc__ or "")
  parser.add_argument("--config", required=True, help="a file with get_comparison")
  parser.add_argument(
    "--results", required=True, type=Path, help="folder of the studies"
  )
  parser.add_argument("--study", help="one of the file's get_studies, in its own file")
  parser.add_argument("--seeds", type=int, default=5, help="seeds 0.. (default: 5)")
  parser.add_argument("--metric", help="one metric, instead of the comparison's own")
  parser.add_argument("--minus", help="a row to take from the others, seed by seed")
  parser.add_argument(
    "--against", type=Path, help="folder of other data's results of the same study"
  )
  parser.add_argument("--table-only", action="store_true", help="train nothing")
  parser.add_argument("--figures", type=Path, help="folder to draw figures into")
  parser.add_argument(
    "--write", type=Path, nargs="+", help="pages whose tables are made anew"
  )
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    comparison = _load(args.config, args.study)
    study = args.results / f"{args.study or MAIN}.jsonl"
    search = args.results / SEARCH
  if not args.table_only:
    jobs.train_all(comparison, study, search, args.seeds)
  with exit_on_bad_input():
    show(comparison, study, search, args)
    pages.write(
      args.write or [], lambda marker: table(args.config, args.results, marker)
    )


def _load(path: str, study: str | None) -> Comparison:
  main, studies = _comparisons(path)
  if study is None:
    return main
  if study not in studies:
    known = ", ".join(studies) or "none"
    raise InputError(f"--study={study}: the studies of {path} are {known}")
  return studies[study]


def _comparisons(path: str) -> tuple[Comparison, dict[str, Comparison]]:
  """The comparison of a config file, and further ones by name."""
  module = command_line.load_module(path)
  if not hasattr(module, "get_comparison"):
    raise InputError(
      f"--config={path} defines no get_comparison, as configs/glyphs_comparison.py does"
    )
  studies = module.get_studies() if hasattr(module, "get_studies") else {}
  return module.get_comparison(), studies


def table(config: str, results: Path, asked: pages.Marker) -> str | None:
  """What a page asks for; None where it asks for another comparison's results.

  Several metrics make one table, which is ranked by the first. `METRIC minus ROW` takes
  a row from the others, `METRIC against FOLDER` correlates the methods' ranks with
  those on other data, and `speed` shows steps to a part of the best. Runs that the
  config does not define are listed one by one.
  """
  path = results / f"{asked.study}.jsonl"
  if asked.results != results.name or asked.study == CENTERS:
    return None
  stored = _stored(path)
  metrics = [metric.strip() for metric in asked.shows.split(";")]
  main, studies = _comparisons(config)
  comparison = {MAIN: main, **studies}.get(asked.study)
  if comparison is None:
    return tables.listed(stored, metrics)
  order = tables.Order([*comparison.methods], [*comparison.columns])
  if asked.shows == "speed":
    return tables.speed(stored, jobs.CHOSEN_BY, order, comparison.ours)
  if len(metrics) > 1:
    return tables.ranked(stored, metrics, order, comparison.ours)
  if " against " in asked.shows:
    metric, _, folder = asked.shows.partition(" against ")
    others = _stored(results.parent / folder / path.name)
    return tables.agreement(stored, others, metric, order)
  metric, _, minus = metrics[0].partition(" minus ")
  return tables.means(stored, metric, order, minus or None)


def _stored(path: Path) -> list[tables.Result]:
  """The results of a study; raises InputError if there is none."""
  if results := store.read(path):
    return results
  raise InputError(f"{path} holds no results: run it without --table-only first")


def show(
  comparison: Comparison, study: Path, search: Path, args: argparse.Namespace
) -> None:
  """Prints the tables of the stored results, and draws their figures if asked to."""
  results = _stored(study)
  order = tables.Order([*comparison.methods], [*comparison.columns])
  for metric in [args.metric] if args.metric else comparison.metrics:
    print(tables.means(results, metric, order, args.minus), end="\n\n")
  others = _stored(args.against / study.name) if args.against else None
  if others is not None:
    metric = args.metric or jobs.CHOSEN_BY
    print(tables.agreement(results, others, metric, order), end="\n\n")
  if not args.metric:
    if speed := tables.speed(results, jobs.CHOSEN_BY, order, comparison.ours):
      print(speed, end="\n\n")
    if comparison.spaces:
      trials = store.read(search)
      tuned = {m: jobs.find_tuned(comparison, trials, m) for m in comparison.methods}
      print(tables.settings(tuned))
  if args.figures:
    from experiments.comparison import charts  # matplotlib is slow to import

    name = args.results.name if study.stem == MAIN else study.stem
    drawn = charts.draw(results, order, comparison, args.figures, name)
    if others is not None:
      both = tables.in_both(results, others, jobs.CHOSEN_BY, order)
      names = args.results.name, args.against.name
      drawn.append(args.figures / f"{name}_ranks.png")
      charts.ranks(both, comparison, names).savefig(drawn[-1], dpi=130)
    for path in drawn:
      print(f"wrote {path}")


if __name__ == "__main__":
  main()
