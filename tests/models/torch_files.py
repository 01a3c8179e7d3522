"""Makes torch_files.json: small .pth files as PyTorch writes them, for the tests.

  python -m tests.models.torch_files

Needs PyTorch, which the tests then do not. Every file holds the tensors of `tensors`.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("torch_files.json")


def tensors():
  """What the files hold: numbers that every type here can tell apart."""
  a = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) - 7
  return {"a.weight": a, "b.bias": np.array([0.5, -2, 3], np.float32)}


def main() -> None:
  import torch  # pyright: ignore[reportMissingImports]

  def saved(state, **options) -> str:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return base64.b64encode(file.getvalue()).decode()

  state = {name: torch.from_numpy(value) for name, value in tensors().items()}
  module = torch.nn.ParameterDict(
    {name.replace(".", "_"): value for name, value in state.items()}
  )
  # Two views of one storage: a part of it, and with its axes in another order.
  together = torch.cat([state["b.bias"], state["a.weight"].mT.flatten()])
  views = {"a.weight": together[3:].view(2, 3, 2, 2).mT, "b.bias": together[:3]}
  files = {
    "zip": saved(state),
    "legacy": saved(state, _use_new_zipfile_serialization=False),
    "float64": saved({name: value.double() for name, value in state.items()}),
    "float16": saved({name: value.half() for name, value in state.items()}),
    "bfloat16": saved({name: value.bfloat16() for name, value in state.items()}),
    "views": saved(views),
    "legacy views": saved(views, _use_new_zipfile_serialization=False),
    "parameters": saved({n: torch.nn.Parameter(value) for n, value in state.items()}),
    "whole model": saved(module),
    "training state": saved({"epoch": 3, "state_dict": state}),
  }
  written = {"torch": torch.__version__, "files": files}
  PATH.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
  main()
