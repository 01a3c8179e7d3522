"""Scores a run's newest checkpoint on its test classes.

  python -m experiments.evaluate --workdir=runs/glyphs

Prints one line of JSON: the metrics, and the step they belong to. It changes nothing in
the run. With --save-embeddings=FOLDER, the embeddings stay as .npy files for
experiments.retrieve --embeddings=FOLDER; of a benchmark with a gallery, in its folders
query and gallery.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.run import command_line, workdir
from experiments.run.command_line import exit_on_bad_input

if TYPE_CHECKING:
  from ccl_jax.retrieval import Calibration


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("evaluate", __doc__ or "")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  parser.add_argument(
    "--split",
    choices=("test", "validation"),
    default="test",
    help="which classes to search (default: test)",
  )
  parser.add_argument(
    "--flip",
    action="store_true",
    help="embed each picture and its mirror image, and take the mean",
  )
  parser.add_argument(
    "--nmi",
    action="store_true",
    help="NMI and AMI of k-means too; slow where classes are many",
  )
  parser.add_argument(
    "--thresholds",
    action="store_true",
    help="thresholds on the cosine of two pictures, and their error rates",
  )
  parser.add_argument(
    "--save-embeddings",
    type=Path,
    metavar="FOLDER",
    help="where to write embeddings, labels and ids as .npy files",
  )
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    config = workdir.read_config(args.workdir)

  from experiments.run import assemble, datasets, embeddings, testing

  with exit_on_bad_input():
    state = assemble.restore(args.workdir)
    data = datasets.load_data(config)
    if args.split == "validation":
      if data.validation is None:
        raise ValueError("the run holds out nothing to validate on: its fraction is 0")
      data = data._replace(test=data.validation, gallery=None)
    if args.save_embeddings:
      args.save_embeddings.mkdir(parents=True, exist_ok=True)
  embed = assemble.make_embed(config, flip=args.flip)
  tested = testing.test(config, embed, state, data)
  embedded = tested.embedded
  about = {"split": args.split, "step": int(state.step), "flip": args.flip}
  if args.save_embeddings:
    folder, run = args.save_embeddings, {"workdir": str(args.workdir), **about}
    if data.gallery is None:
      embeddings.save(folder, data.test, embedded.queries, run)
    else:
      embeddings.save(folder / "query", data.test, embedded.queries, run)
      embeddings.save(folder / "gallery", data.gallery, embedded.gallery, run)
  metrics = tested.metrics
  if args.nmi:
    metrics |= testing.score_clusters(config, embedded)
  if args.thresholds and (calibration := testing.calibrate(config, embedded)):
    metrics |= {"eer": calibration.eer, **thresholds_of(calibration)}
  print(json.dumps({**about, **metrics}))


def thresholds_of(calibration: "Calibration") -> dict[str, float]:
  """For each false accept rate that the pairs can tell: cosine and false rejects."""
  told = {}
  for far in (0.1, 0.01, 0.001, 0.0001):
    if far * calibration.other >= 1:
      threshold, frr = calibration.at_far(far)
      told |= {f"threshold at far {far:g}": threshold, f"frr at far {far:g}": frr}
  return told


if __name__ == "__main__":
  main()
