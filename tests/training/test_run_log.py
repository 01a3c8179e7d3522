"""Events are written as they happen, and a resumed run takes back the lost ones."""

from ccl_jax.training.run_log import RunLog, read_events


def test_events_are_readable_while_the_run_goes_on(tmp_path):
  with RunLog(tmp_path, step=0) as log:
    log.write("train", 10, {"loss": 2.5, "seconds": 1.5})
    log.write("validation", 10, {"recall@1": 0.5})
    assert read_events(tmp_path / "metrics.jsonl") == [
      {"event": "train", "step": 10, "loss": 2.5, "seconds": 1.5},
      {"event": "validation", "step": 10, "recall@1": 0.5},
    ]
    assert log.seconds == 1.5
  assert any((tmp_path / "tensorboard").iterdir())


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
  with RunLog(tmp_path, step=0) as log:
    for step in (10, 20, 30):
      log.write("train", step, {"loss": float(step), "seconds": float(step)})
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"event": "train", "st')  # cut short by a kill
  with RunLog(tmp_path, step=20) as log:
    assert log.seconds == 20.0
    log.write("train", 30, {"loss": 31.0, "seconds": 29.0})
  events = read_events(tmp_path / "metrics.jsonl")
  assert [e["loss"] for e in events] == [10.0, 20.0, 31.0]


def test_a_test_without_a_result_is_made_again(tmp_path):
  for _ in range(2):
    with RunLog(tmp_path, step=30) as log:
      log.write("test", 30, {"recall@1": 0.5})
  assert len(read_events(tmp_path / "metrics.jsonl")) == 1


def test_no_file_has_no_events(tmp_path):
  assert read_events(tmp_path / "metrics.jsonl") == []
