"""Processes learn of each other's end: with its line and code, or that one was lost."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run import lifeline

ROOT = Path(__file__).parents[3]

# A process of three; what it does once it is connected comes from its input.
MEMBER = """
import json, os, signal, sys, time
from experiments.run.lifeline import Address, Lifeline

index = int(sys.argv[1])
line = Lifeline(index, 3)
if index == 0:
  print(json.dumps(line.listen()), flush=True)
else:
  line.connect("localhost", Address(*json.loads(sys.argv[2])))
  print("connected", flush=True)
eval(sys.stdin.readline() or "None")
time.sleep(60)
"""


@pytest.fixture
def job():
  def start(*arguments):
    return subprocess.Popen(
      [sys.executable, "-c", MEMBER, *map(str, arguments)],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  first = start(0)
  address = first.stdout.readline().strip()
  members = [first, start(1, address), start(2, address)]
  for member in members[1:]:
    assert member.stdout.readline() == "connected\n"
  yield members
  for member in members:
    member.kill()
    member.communicate()


def do(member, what):
  member.stdin.write(f"{what}\n")
  member.stdin.flush()


def end_of(member):
  _, told = member.communicate(timeout=30)
  return member.returncode, told


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_in_one_line(job, lost):
  members = job
  do(members[lost], "os.kill(os.getpid(), signal.SIGKILL)")
  for index in {0, 1, 2} - {lost}:
    code, told = end_of(members[index])
    assert code == 1 and told.count("\n") == 1
    assert told.startswith(f"error: process {lost} of 3 was lost. The checkpoints are")


@pytest.mark.parametrize("ending", [0, 2])
def test_a_process_that_ends_tells_the_others_why(job, ending):
  members = job
  do(members[ending], f"line.end('process {ending} of 3 ended: no disk', 2)")
  for member in members:
    expected = 2, f"error: process {ending} of 3 ended: no disk\n"
    assert end_of(member) == expected


def test_a_process_that_is_done_is_not_lost(job):
  members = job
  for member in members:
    do(member, "(line.done(), time.sleep(1), os._exit(0))")
  assert [end_of(member) for member in members] == [(0, "")] * 3


def test_a_stranger_is_turned_away():
  first = lifeline.Lifeline(0, 2)
  address = first.listen()
  with socket.create_connection(("localhost", address.port)) as stranger:
    stranger.sendall(b'{"token": "guessed", "index": 1}\n{"told": "end", "code": 0}\n')
    with contextlib.suppress(ConnectionResetError):
      assert stranger.recv(1) == b""
  assert not first._connections
