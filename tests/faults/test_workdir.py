"""What a run does in a folder that another run holds, or that a kill has left."""

import json
import shutil

import pytest

from experiments import train
from experiments.run import scoring, workdir
from experiments.run.command_line import InputError
from tests.experiments.conftest import SHORT, refusal


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
  folder = tmp_path_factory.mktemp("runs") / "run"
  fields = {**SHORT, "data.images": pictures, "steps": 4}
  argv = ["--config=configs/glyphs.py", f"--workdir={folder}"]
  argv += [f"--config.{name}={value}" for name, value in fields.items()]
  train.main(argv)
  return folder, argv


def refused(argv, capsys):
  return refusal(train.main, argv, capsys)


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


def test_what_was_never_claimed_is_left_as_it_was(tmp_path):
  with workdir.hold(tmp_path / "new"):
    assert (tmp_path / "new" / "lock").exists()
  assert not (tmp_path / "new").exists()
  (tmp_path / "old").mkdir()
  with workdir.hold(tmp_path / "old"):
    pass
  assert [*(tmp_path / "old").iterdir()] == []


def test_a_lock_ends_with_its_run_and_names_the_next(tmp_path):
  (tmp_path / "lock").write_text("a much longer line of a process that is gone")
  with workdir.hold(tmp_path):
    assert (tmp_path / "lock").read_text().startswith("process ")
    assert "gone" not in (tmp_path / "lock").read_text()
    with pytest.raises(InputError, match="in use by process"):
      with workdir.hold(tmp_path):
        pass


def test_what_a_kill_left_while_it_claimed_the_folder_is_no_obstacle(
  arguments, tmp_path
):
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "config.tmp").write_text('{"cut')
  (folder / "lock").write_text("process 1")
  train.main(arguments(steps=4))
  assert workdir.is_finished(folder)


@pytest.mark.parametrize("text", ["", '{"recall@1": 0.', "[]"])
def test_a_damaged_result_is_made_again(finished, text):
  folder, argv = finished
  expected = json.loads((folder / "result.json").read_text())
  (folder / "result.json").write_text(text)
  train.main(argv)
  found = json.loads((folder / "result.json").read_text())
  assert found["recall@1"] == expected["recall@1"]


def test_a_broken_line_of_the_log_is_left_out_with_a_warning(finished, caplog):
  folder, argv = finished
  path = folder / "metrics.jsonl"
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b"".join([lines[0], b"\xff{\n", *lines[1:]]))
  (folder / "result.json").unlink()
  train.main(argv)
  assert f"line 2 of {path} is damaged and is left out" in caplog.text
  assert len(path.read_bytes().splitlines()) == len(lines)


def test_a_folder_deleted_under_its_run_is_named(
  arguments, tmp_path, capsys, monkeypatch
):
  score = scoring.score_with_neighbors

  def delete(*args):
    shutil.rmtree(tmp_path / "run")
    return score(*args)

  monkeypatch.setattr(scoring, "score_with_neighbors", delete)
  # No save is under way at the evaluation: it would race with the deletion itself.
  argv = arguments(steps=8, checkpoint_every=8)
  told = refused(argv, capsys)
  assert "run was deleted while the run went on: the same command starts anew" in told
  monkeypatch.setattr(scoring, "score_with_neighbors", score)
  train.main(argv)
  assert workdir.is_finished(tmp_path / "run")


def test_a_log_that_was_emptied_is_told(finished, capsys):
  folder, argv = finished
  lines = (folder / "metrics.jsonl").read_text()
  (folder / "metrics.jsonl").write_text("")
  (folder / "result.json").unlink()
  train.main(argv)
  lacks = "lacks the events of 4 of 4 logged steps"
  assert lacks in capsys.readouterr().err
  assert lacks in (folder / "report.html").read_text()
  (folder / "metrics.jsonl").write_text(lines)
