"""What a run does in a folder that another run holds, or that a kill has left."""

import pytest

from experiments import train
from experiments.run import workdir
from experiments.run.command_line import InputError


def refused(argv, capsys):
  """The one line with which a command ends, with exit code 2."""
  with pytest.raises(SystemExit) as stop:
    train.main(argv)
  told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
  assert stop.value.code == 2 and len(told) == 1
  return told[0]


def test_a_folder_that_another_run_holds_is_refused_untouched(
  arguments, tmp_path, capsys
):
  folder = tmp_path / "run"
  with workdir.hold(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert "run is in use by process " in refused(arguments(), capsys)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
  with workdir.hold(folder):
    pass


def test_a_lock_ends_with_its_run_and_names_the_next(tmp_path):
  with workdir.hold(tmp_path):
    pass
  (tmp_path / "lock").write_text("a much longer line of a process that is gone")
  with workdir.hold(tmp_path):
    assert (tmp_path / "lock").read_text().startswith("process ")
    assert "gone" not in (tmp_path / "lock").read_text()
    with pytest.raises(InputError, match="in use by process"):
      with workdir.hold(tmp_path):
        pass
