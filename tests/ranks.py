"""Process groups for tests: a few ranks that live as long as the test session.

``group.run(function, *args)`` calls a module-level function on every rank, with a gloo process group of that size as
the default group, and returns the results in the order of ranks. A function that needs to know its rank asks
``torch.distributed``.

    def add(value):
        total = torch.tensor(value + dist.get_rank())
        dist.all_reduce(total)
        return total

    def test_add(two_ranks):
        assert two_ranks.run(add, 1.0) == [3.0, 3.0]

Starting Python with torch costs seconds, so one server process imports everything once and the ranks are forked from
it; groups of different sizes share them. A call that hangs is killed and fails, and the next one starts afresh.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import random
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["Pool", "RankError", "RankGroup"]

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_PRELOAD = ("torch", "torch.distributed", "lightning_interp.metrics")
# Slow to import, so loaded ahead only where the tests that run have imported them too.
_PRELOAD_IF_USED = (
    "numpy",
    "scipy.special",
    "hypothesis",
    "matplotlib",
    "pytorch_lightning",
    "torch.utils.tensorboard",
)
# A rank that waits for one that has failed already gets this long to notice.
_GRACE = 15.0


class RankError(RuntimeError):
    """Some ranks raised; ``errors`` maps each of them to its exception."""

    def __init__(self, errors: dict[int, BaseException]) -> None:
        super().__init__("\n".join(f"rank {rank}: {_text(error)}" for rank, error in errors.items()))
        self.errors = errors


class RankGroup:
    """A process group of a fixed number of ranks."""

    def __init__(self, pool: Pool, size: int) -> None:
        self.pool = pool
        self.size = size

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
        """Results of ``function(*args)`` by rank; :class:`RankError` if any rank raised."""
        outcomes = self.outcomes(function, *args, timeout=timeout)
        errors = {rank: value for rank, value in enumerate(outcomes) if isinstance(value, BaseException)}
        if errors:
            raise RankError(errors)
        return outcomes

    def outcomes(self, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
        """Per rank what ``function(*args)`` returned, or the exception that it raised there.

        The rank's traceback is the exception's note. A rank that did not come back in time has a ``TimeoutError`` that
        shows where it was.
        """
        return self.pool.outcomes(self.size, function, args, timeout)


class Pool:
    """The processes behind the groups; started at the first call."""

    def __init__(self, most: int = 3) -> None:
        self.most = most
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._workers: list[tuple[Any, Connection]] = []
        self._world = 0
        self._calls = 0

    def group(self, size: int) -> RankGroup:
        """A group of that many ranks."""
        if not 1 <= size <= self.most:
            raise ValueError(f"`size` must be between 1 and {self.most}, got {size}.")
        return RankGroup(self, size)

    def outcomes(self, size: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
        """See :meth:`RankGroup.outcomes`."""
        if not all(process.is_alive() for process, _ in self._workers):
            self._kill()  # one died since the last call
        if not self._workers:
            self._start()
        if self._world != size:
            self._connect(size)
        found = self._call(size, function, args, timeout)
        if any(isinstance(value, BaseException) for value in found) and self._workers and not self._healthy(size):
            self._world = 0  # reconnect before the next call
        return found

    def close(self) -> None:
        """End the processes."""
        for process, connection in self._workers:
            with contextlib.suppress(OSError):
                connection.send_bytes(pickle.dumps(None))
            connection.close()
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join(5)
        self._workers, self._world = [], 0

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        used = [name for name in _PRELOAD_IF_USED if name in sys.modules]
        context.set_forkserver_preload([*_PRELOAD, *used])
        with _environment(_ONE_THREAD):
            for rank in range(self.most):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, rank, sys.path), daemon=True)
                process.start()
                theirs.close()
                self._workers.append((process, ours))

    def _connect(self, size: int) -> None:
        self._calls += 1
        store = os.path.join(self._folder.name, f"store-{self._calls}")
        # 60 s: the first call waits for the server's imports on a machine that may be busy.
        found = self._call(size, _connect, (store, size, _free_port()), 60.0)
        errors = {rank: value for rank, value in enumerate(found) if isinstance(value, BaseException)}
        if errors:
            self._kill()
            raise RankError(errors)
        self._world = size

    def _healthy(self, size: int) -> bool:
        return self._call(size, _count, (), 10.0) == [size] * size

    def _call(self, size: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
        work = pickle.dumps((function, args, timeout, list(sys.path), os.getcwd()))
        ranks = {connection: rank for rank, (_, connection) in enumerate(self._workers[:size])}
        for connection in ranks:
            connection.send_bytes(work)
        found: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        while ranks and (ready := wait(list(ranks), max(0.0, deadline - time.monotonic()))):
            for connection in ready:
                rank = ranks.pop(connection)  # type: ignore[index]
                try:
                    found[rank] = pickle.loads(connection.recv_bytes())  # type: ignore[union-attr]
                except EOFError:
                    self._workers[rank][0].join(2)
                    found[rank] = RuntimeError(f"The process died, exit code {self._workers[rank][0].exitcode}.")
                if isinstance(found[rank], BaseException):
                    deadline = min(deadline, time.monotonic() + _GRACE)
        if ranks or not all(process.is_alive() for process, _ in self._workers):
            for rank in ranks.values():
                found[rank] = TimeoutError(f"Hung and was killed after {timeout:.0f} s or less.\n{self._stack(rank)}")
            self._kill()
        return [found[rank] for rank in range(size)]

    def _stack(self, rank: int) -> str:
        """Where a rank is, as it tells when asked by a signal."""
        process = self._workers[rank][0]
        path = _stack_file(process.pid)
        with contextlib.suppress(OSError):
            os.kill(process.pid, _STACK_SIGNAL)
            # A busy machine takes its time to answer; what has come is written in one go.
            until = time.monotonic() + 5
            while time.monotonic() < until and not os.path.getsize(path):
                time.sleep(0.1)
            time.sleep(0.2)
            with open(path) as file:
                return file.read()
        return "(no stack)"

    def _kill(self) -> None:
        for process, connection in self._workers:
            process.kill()
            process.join(5)
            connection.close()
            with contextlib.suppress(OSError):
                os.remove(_stack_file(process.pid))
        self._workers, self._world = [], 0


# ---------------------------------------------------------------- inside the processes

_STACK_SIGNAL = 10  # SIGUSR1


def _serve(connection: Connection, rank: int, path: list[str]) -> None:
    """Run what comes in until nothing more does."""
    import torch

    sys.path[:] = path
    os.environ.update(_ONE_THREAD)
    torch.set_num_threads(1)
    stack = open(_stack_file(os.getpid()), "w")  # noqa: SIM115 - open as long as the process
    faulthandler.register(_STACK_SIGNAL, stack)
    environment: dict[str, str] = dict(os.environ)
    connected: dict[str, str] = {}
    try:
        while True:
            try:
                message = connection.recv_bytes()
            except EOFError:
                return
            result: Any
            try:
                work = pickle.loads(message)
                if work is None:
                    return
                function, args, _timeout, path, folder = work
                # A Trainer that ran here put back the signal handlers that Python knows of, and with them the default.
                faulthandler.unregister(_STACK_SIGNAL)
                faulthandler.register(_STACK_SIGNAL, stack)
                sys.path[:] = path
                os.chdir(folder)
                os.environ.clear()
                os.environ.update({**environment, **connected})
                random.seed(0)
                torch.manual_seed(0)
                if function is _connect:
                    connected = _connect(rank, *args)
                    result = None
                else:
                    result = function(*args)
                reply = pickle.dumps(result)
            except BaseException as error:
                reply = _pickled_error(error)
            connection.send_bytes(reply)
    finally:
        stack.close()
        with contextlib.suppress(OSError):
            os.remove(_stack_file(os.getpid()))


def _connect(rank: int, store: str, size: int, port: int) -> dict[str, str]:
    """Make the default process group anew, and say what the environment of such a process holds."""
    import torch.distributed as dist

    if dist.is_initialized():
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=50)
    )
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }


def _count() -> int:
    import torch
    import torch.distributed as dist

    one = torch.ones(())
    dist.all_reduce(one)
    return int(one)


def _pickled_error(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(AttributeError):
        error.add_note(text)
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        message = pickle.dumps(error)
        pickle.loads(message)
    except Exception:
        return pickle.dumps(RuntimeError(text))
    return message


# ---------------------------------------------------------------- helpers


def _text(error: BaseException) -> str:
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def _stack_file(pid: int) -> str:
    return os.path.join(tempfile.gettempdir(), f"ranks-stack-{pid}.txt")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
