"""Connections between the processes of a job, which tell when a process has ended.

The system closes the connections of a process that ends, however it ends. So the others
know at once, where JAX notices after a timeout, and aborts with a stack of C++.
"""

import contextlib
import hmac
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

_GREETING = 10  # seconds for a process to connect, and to say which one it is
_FAREWELL = 5  # seconds for the others to read why this process ends
_LOST = (
  "was lost. The checkpoints are whole: start the job again, on as many processes as "
  "you like, with the same command"
)


class Address(NamedTuple):
  """Where the first process listens, and the word that its job knows."""

  port: int
  token: str


class Lifeline:
  """Watches the other processes, in threads, and ends this one when one is lost.

  The first process holds a connection to each other one, and passes on what it learns.

  Args:
    index: of this process.
    count: of the processes.
  """

  def __init__(self, index: int, count: int):
    self._index, self._count = index, count
    self._connections: dict[int, socket.socket] = {}  # by process
    self._ended: set[int] = set()  # processes
    self._changed = threading.Condition()
    self._ending = threading.Lock()  # taken once, by the thread that ends this process

  def listen(self) -> Address:
    """Starts the watch in the first process."""
    both = socket.has_dualstack_ipv6()
    listener = socket.create_server(
      ("", 0),
      family=socket.AF_INET6 if both else socket.AF_INET,
      backlog=self._count,
      dualstack_ipv6=both,
    )
    address = Address(listener.getsockname()[1], os.urandom(16).hex())
    self._start(self._accept, listener, address.token)
    return address

  def connect(self, host: str, address: Address) -> None:
    """Starts the watch in another process.

    Raises:
      OSError: if the first process cannot be reached.
    """
    first = socket.create_connection((host, address.port), timeout=_GREETING)
    first.settimeout(None)
    _send(first, {"token": address.token, "index": self._index})
    self._watch(0, first, _messages(first))

  def done(self) -> None:
    """Tells the others that this process ends in order, and is not lost."""
    with self._changed:
      for connection in self._connections.values():
        _send(connection, {"done": True})

  def end(self, told: str, code: int, *, is_printed: bool = False) -> NoReturn:
    """Ends this process and, with the same line and code, the others.

    Args:
      told: the reason, in one line.
      code: with which the processes exit.
      is_printed: whether this process has printed its reason.
    """
    if not self._ending.acquire(blocking=False):
      while True:  # another thread is about to end this process
        time.sleep(1)
    if not is_printed:
      print(f"error: {told}", file=sys.stderr)
    with contextlib.suppress(ValueError, OSError):  # of streams that are closed
      sys.stdout.flush()
      sys.stderr.flush()
    self._tell_the_others({"told": told, "code": code})
    os._exit(code)

  def _tell_the_others(self, message: dict) -> None:
    """Sends a message, and waits until those who got it have ended."""
    deadline = time.monotonic() + _FAREWELL
    # To the first process all others are connected, or on their way.
    known = self._count - 1 if self._index == 0 else 1
    with self._changed:
      self._changed.wait_for(lambda: len(self._connections) == known, _FAREWELL)
      for connection in self._connections.values():
        _send(connection, message)
      self._changed.wait_for(
        lambda: len(self._ended) == known, max(deadline - time.monotonic(), 0)
      )

  def _accept(self, listener: socket.socket, token: str) -> None:
    with listener:
      while len(self._connections) < self._count - 1:
        connection, _ = listener.accept()
        connection.settimeout(_GREETING)
        messages = _messages(connection)
        greeting = next(messages, {})
        if hmac.compare_digest(str(greeting.get("token")), token):
          connection.settimeout(None)
          self._watch(greeting["index"], connection, messages)
        else:
          messages.close()
          connection.close()

  def _watch(
    self, other: int, connection: socket.socket, messages: Iterator[dict]
  ) -> None:
    _keep_alive(connection)
    with self._changed:
      self._connections[other] = connection
      self._changed.notify_all()
    self._start(self._read, other, messages)

  def _read(self, other: int, messages: Iterator[dict]) -> None:
    """Ends this process as the other one says, or when it is lost."""
    in_order = False
    for message in messages:
      if "told" in message:
        self._has_ended(other)
        self.end(message["told"], message["code"])
      in_order = True
    self._has_ended(other)
    if not in_order:
      self.end(f"process {other} of {self._count} {_LOST}", 1)

  def _has_ended(self, other: int) -> None:
    with self._changed:
      self._ended.add(other)
      self._changed.notify_all()

  def _start(self, target, *args) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def _send(connection: socket.socket, message: dict) -> None:
  with contextlib.suppress(OSError):  # the other end has ended; its reader tells
    connection.sendall(json.dumps(message).encode() + b"\n")


def _messages(connection: socket.socket) -> Iterator[dict]:
  """What the other end sends, until it ends."""
  with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
    while line := lines.readline(10_000):
      yield json.loads(line)


def _keep_alive(connection: socket.socket) -> None:
  """Also notices a machine that has lost its power or its network, in 25 seconds."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in {"KEEPIDLE": 10, "KEEPINTVL": 5, "KEEPCNT": 3}.items():
    if hasattr(socket, f"TCP_{name}"):  # not on every system
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), value)
