"""How centers age, drift, crowd and gain accuracy, by the rule that moves them.

  python -m experiments.center_study --results=experiments/results/glyphs

Trains the comparison's network with CCL under each rule, and looks at the centers at a
few steps: the length of their mean (0 if they spread evenly, 1 if they all agree), the
mean |cosine| of two centers, and the cosine of a center with what its class's images
embed to now, for classes seen just before and for those seen long ago. Recall@1 is of
validation classes. Each look adds a line of JSON to center_study.jsonl there; a rule
that has all its lines is not trained again, and --write puts the table into the pages
that ask for it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import base, glyphs_comparison
from configs.base import Config
from experiments.comparison import pages, store, tables
from experiments.run import command_line

STUDY = "center_study"
RULES = {
  "trained by gradient": {"loss.centers": "trained"},
  "class means": {"loss.centers": "bank", "loss.momentum": 0.5, "loss.sharpness": None},
  "class means, momentum .9": {"loss.centers": "bank", "loss.sharpness": None},
  "off the batch's mean": {"loss.centers": "bank", "loss.sharpness": 0.0},
  "off the nearest": {"loss.centers": "bank", "loss.sharpness": 8.0},
}
FRESH, OLD = 2, 15  # steps since the last visit: at most, at least


COLUMNS = {
  "R@1": "recall@1",
  "length of the mean center": "mean center",
  "mean abs. cosine": "|cos|",
  "agreement, seen just before": "fresh",
  "agreement, 15 steps ago or more": "old",
}


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser(STUDY, __doc__ or "")
  parser.add_argument("--results", required=True, type=Path, help="folder of studies")
  parser.add_argument("--at", type=int, nargs="+", default=[100, 300, 1000, 2000])
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--write", type=Path, nargs="+", help="pages whose tables are made anew"
  )
  args = parser.parse_args(argv)
  path = args.results / f"{STUDY}.jsonl"
  with command_line.exit_on_bad_input():
    stored = store.read(path)
  done = {(row["row"], row["seed"], row["step"]) for row in stored}
  for rule, fields in RULES.items():
    if any((rule, args.seed, step) not in done for step in args.at):
      for look in study(fields, args.at, args.seed):
        if (rule, args.seed, look["step"]) not in done:
          store.append(path, {"row": rule, "seed": args.seed, **look})
  with command_line.exit_on_bad_input():
    shown = table(store.read(path))
    print(shown)
    pages.write_study(args.write or [], args.results.name, STUDY, shown)


def table(stored: Sequence[store.Result]) -> str:
  """A line a look, by rule and step."""
  order = [*RULES]
  body = [
    [look["row"], f"{look['step']:,}", *_shown(look["metrics"])]
    for look in sorted(stored, key=lambda x: (order.index(x["row"]), x["step"]))
  ]
  return tables.markdown(["centers", "step", *COLUMNS], body)


def _shown(metrics: dict[str, float | None]) -> Iterator[str]:
  for name in COLUMNS.values():
    value = metrics[name]
    yield "" if value is None else f"{value:.3f}"


def study(fields: dict, steps: Sequence[int], seed: int) -> list[dict[str, Any]]:
  """What the centers are like after some steps of one run."""
  from experiments.run import assemble, datasets
  from experiments.train import versions

  config = base.replace(
    glyphs_comparison.BASE, {"seed": seed, "steps": max(steps), **fields}
  )
  with command_line.exit_on_bad_input():
    data = datasets.load_data(config)
    run = assemble.make_run(config, data)
  last_seen, looks = np.zeros(data.train.num_classes, int), []
  for number, batch, state, _ in assemble.steps(run, config, data):
    last_seen[batch["label"]] = number
    if number in steps:
      ages = np.where(last_seen > 0, number - last_seen, -1)
      looks.append(
        {
          "step": number,
          "metrics": look_at(config, run, data, state, ages),
          "versions": versions(),
          "config": base.fields(config),
        }
      )
  return looks


def look_at(config: Config, run, data, state, ages: np.ndarray) -> dict[str, Any]:
  """Recall of validation classes, and what the centers are like, at one state."""
  from experiments.run import scoring

  embedded = scoring.Embedded(*run.embed(state, data.validation))
  centers = scoring.class_centers(run.class_vectors(state), np.arange(len(ages)))
  return {
    "recall@1": scoring.score(config, embedded)["recall@1"],
    **describe(centers, *run.embed(state, data.train), ages),
  }


def describe(
  centers: np.ndarray, embeddings: np.ndarray, labels: np.ndarray, ages: np.ndarray
) -> dict[str, float | None]:
  """Spread of the centers, and their agreement with the classes of today.

  Args:
    centers: [K, D] of unit length.
    embeddings: [N, D] of the train images, by the network of now.
    labels: [N].
    ages: [K], steps since each class was last in a batch; -1: never.
  """
  unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  means = np.zeros_like(centers)
  np.add.at(means, labels, unit)
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  agreement = np.sum(centers * means, axis=1)
  cosines = np.abs(centers @ centers.T)
  return {
    "mean center": float(np.linalg.norm(centers.mean(axis=0))),
    "|cos|": float(cosines[~np.eye(len(centers), dtype=bool)].mean()),
    "fresh": _mean(agreement[(ages >= 0) & (ages <= FRESH)]),
    "old": _mean(agreement[ages >= OLD]),
    "seen ago": _mean(ages[ages >= 0]),
  }


def _mean(values: np.ndarray) -> float | None:
  return float(values.mean()) if values.size else None


if __name__ == "__main__":
  main()
