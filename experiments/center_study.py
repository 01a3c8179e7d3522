"""How centers age, drift, crowd and gain accuracy, by the rule that moves them.

  python -m experiments.center_study --out=experiments/results/glyphs/center_study.json

Trains the comparison's network with CCL under each rule, and looks at the centers at a
few steps: the length of their mean (0 if they spread evenly, 1 if they all agree), the
mean |cosine| of two centers, and the cosine of a center with what its class's images
embed to now, for classes seen just before and for those seen long ago. Recall@1 is of
validation classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs import base, glyphs_comparison
from experiments.run import command_line

RULES = {
  "trained by gradient": {"loss.centers": "trained"},
  "class means": {"loss.centers": "bank", "loss.momentum": 0.5, "loss.sharpness": None},
  "class means, momentum .9": {"loss.centers": "bank", "loss.sharpness": None},
  "off the batch's mean": {"loss.centers": "bank", "loss.sharpness": 0.0},
  "off the nearest": {"loss.centers": "bank", "loss.sharpness": 8.0},
}
FRESH, OLD = 2, 15  # steps since the last visit: at most, at least


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("center_study", __doc__ or "")
  parser.add_argument("--at", type=int, nargs="+", default=[100, 300, 1000, 2000])
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", type=Path, help="where to write JSON")
  args = parser.parse_args(argv)
  if args.out:
    args.out.parent.mkdir(parents=True, exist_ok=True)
  columns = ("step", "recall@1", "mean center", "|cos|", "fresh", "old", "seen ago")
  print(f"{'rule':26}" + "".join(f"{name:>12}" for name in columns))
  rows = []
  for rule, fields in RULES.items():
    for row in study(fields, args.at, args.seed):
      shown = "".join(
        f"{'' if row[name] is None else format(row[name], '.3f'):>12}"
        for name in columns[1:]
      )
      print(f"{rule:26}{row['step']:>12}{shown}", flush=True)
      rows.append({"rule": rule, **row})
  if args.out:
    args.out.write_text(json.dumps({"seed": args.seed, "rows": rows}, indent=1) + "\n")


def study(
  fields: dict, steps: Sequence[int], seed: int
) -> list[dict[str, float | None]]:
  """What the centers are like after some steps of one run."""
  from experiments.run import assemble, datasets, testing

  config = base.replace(
    glyphs_comparison.BASE, {"seed": seed, "steps": max(steps), **fields}
  )
  with command_line.exit_on_bad_input():
    data = datasets.load_data(config)
    run = assemble.make_run(config, data)
  num_classes = data.train.num_classes
  last_seen, rows = np.zeros(num_classes, int), []
  for number, batch, state, _ in assemble.steps(run, config, data):
    last_seen[batch["label"]] = number
    if number not in steps:
      continue
    found = testing.score(config, testing.Embedded(*run.embed(state, data.validation)))
    centers = testing.class_centers(run.class_vectors(state), np.arange(num_classes))
    ages = np.where(last_seen > 0, number - last_seen, -1)
    now = describe(centers, *run.embed(state, data.train), ages)
    rows.append({"step": number, "recall@1": found["recall@1"], **now})
  return rows


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
