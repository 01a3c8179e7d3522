"""Finds the pictures of a folder that are most like a given one, with a trained run.

  python -m experiments.retrieve --workdir=runs/glyphs --images=FOLDER --query=IMAGE

Prints the nearest pictures, one a line with its cosine, and draws them beside the query
in a PNG (neighbours.png in the run's folder, unless --out says otherwise).
"""

from collections.abc import Sequence
from pathlib import Path

from experiments import command_line, workdir
from experiments.command_line import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("retrieve", __doc__ or "")
  parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
  parser.add_argument(
    "--images",
    required=True,
    type=Path,
    help="folder of pictures, searched with all below",
  )
  parser.add_argument("--query", required=True, type=Path, help="the picture to find")
  parser.add_argument("--k", type=int, default=10, help="how many (default: 10)")
  parser.add_argument("--out", type=Path, help="where to write the PNG")
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    config = workdir.read_config(args.workdir)
    if not args.query.is_file():
      raise ValueError(f"--query={args.query}: no such file")
    if args.k < 1:
      raise ValueError(f"--k={args.k}: expected 1 or more")

  from ccl_jax import report, retrieval
  from experiments import assemble

  with exit_on_bad_input():
    state = assemble.restore(args.workdir)
    pictures = assemble.load_pictures(config, args.images)
    query = assemble.load_pictures(config, args.query)
  embed = assemble.make_embed(config)
  (wanted, _), (embeddings, _) = embed(state, query), embed(state, pictures)
  # The query may lie in the folder itself; it would only find itself.
  others = [
    row
    for row, path in enumerate(pictures.source.paths)
    if Path(path).resolve() != args.query.resolve()
  ]
  k = min(args.k, len(others))
  similarities, found = retrieval.search(wanted, embeddings[others], k=k)
  rows = [others[index] for index in found[0]]
  names = [
    str(Path(pictures.source.paths[row]).relative_to(args.images)) for row in rows
  ]
  for similarity, name in zip(similarities[0], names, strict=True):
    print(f"{similarity:.4f}  {name}")
  out = args.out or args.workdir / "neighbours.png"
  report.picture_of_neighbours(
    out,
    query[0]["image"],
    [pictures[row]["image"] for row in rows],
    similarities[0],
    names,
  )
  print(f"look at {out}")


if __name__ == "__main__":
  main()
