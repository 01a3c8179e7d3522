"""What a head adds to stored embeddings, over classes that it has not seen.

  python -m experiments.head_study --results=experiments/results/features \
    --embeddings=FOLDER

FOLDER holds what experiments.evaluate --split=all --save-embeddings=FOLDER wrote, and
names the column of the table. Each head is trained with the settings of
configs/features.py, untuned, and three seeds; a row that is stored already is not
trained again. --write puts the table into the pages that ask for it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import base, features
from experiments.comparison import pages, store, tables
from experiments.run import command_line

STUDY = "heads"
BEFORE = "no head"
HEADS: dict[str, dict[str, Any]] = {
  "CCL": {"loss.name": "center_contrastive", "loss.centers": "bank"},
  "ArcFace, bank": {"loss.name": "arcface", "loss.centers": "bank"},
  "SupCon": {
    "loss.name": "supcon",
    "loss.centers": "trained",
    "data.images_per_class": 8,
  },
  "cross-entropy": {"loss.name": "cross_entropy", "loss.centers": "trained"},
}
METRICS = "recall@1", "map@r"


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("head_study", __doc__ or "")
  parser.add_argument("--results", required=True, type=Path, help="folder of studies")
  parser.add_argument("--embeddings", type=Path, nargs="*", default=[])
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument(
    "--write", type=Path, nargs="+", help="pages whose tables are made anew"
  )
  args = parser.parse_args(argv)
  path = args.results / f"{STUDY}.jsonl"
  with command_line.exit_on_bad_input():
    done = {(row["row"], row["column"], row["seed"]) for row in store.read(path)}
  for folder in args.embeddings:
    for seed in range(args.seeds):
      for head in (BEFORE, *HEADS):
        if (head, folder.name, seed) not in done:
          store.append(path, study(head, folder, seed, args.steps))
  with command_line.exit_on_bad_input():
    shown = table(store.read(path))
    print(shown)
    pages.write_study(args.write or [], args.results.name, STUDY, shown)


def table(stored: Sequence[store.Result]) -> str:
  """Mean and interval of each head, on the embeddings on which all were tried."""
  heads = [BEFORE, *HEADS]
  tried = {(row["row"], row["column"]) for row in stored}
  columns = [
    column
    for column in dict.fromkeys(row["column"] for row in stored)
    if tried.issuperset((head, column) for head in heads)
  ]
  if not columns:
    return "Not run."
  order = tables.Order(heads, columns)
  return tables.ranked(stored, METRICS, order, ours=["CCL", "ArcFace, bank"])


def study(head: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
  """The retrieval of unseen classes by one head, or by the embeddings themselves."""
  from experiments.run import assemble, datasets, scoring
  from experiments.train import versions

  start = time.perf_counter()
  fields = {"data.features": str(folder), "data.validation_fraction": 0.0}
  config = base.replace(
    features.get_config(),
    {"seed": seed, "steps": steps, **fields, **HEADS.get(head, {})},
  )
  with command_line.exit_on_bad_input():
    data = datasets.load_data(config)
  if head == BEFORE:
    source, rows = data.test.source, data.test.indices
    embedded = scoring.Embedded(source.images[rows], data.test.labels)
    steps = 0
  else:
    run = assemble.make_run(config, data)
    for step in assemble.steps(run, config, data):
      state = step.state
    embedded = scoring.Embedded(*run.embed(state, data.test))
  metrics = scoring.score(config, embedded)
  return {
    "row": head,
    "column": folder.name,
    "seed": seed,
    "steps": steps,
    "seconds": round(time.perf_counter() - start, 1),
    "metrics": {name: metrics[name] for name in METRICS},
    "versions": versions(),
    # Where the embeddings lie is of no use to a reader.
    "config": base.fields(base.replace(config, {"data.features": folder.name})),
  }


if __name__ == "__main__":
  main()
