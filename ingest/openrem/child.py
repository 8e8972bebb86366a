"""A child process that answers one line with one line: whatever it does, bounded time and memory.

It may be killed, hang, print garbage, close its pipes, ignore them, or leave children of its own
that hold them open. So nothing here waits for a pipe alone: what it prints on both of its outputs
is read by whoever asks it, up to a deadline, and every moment it is seen whether it still lives.
"""

import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import IO

MAX_LINE = 16 << 20  # bytes; the facts on 60,000 events are a quarter of that
LAST_WORDS = 8 << 10  # bytes of its stderr that are kept while it starts
TICK_S = 0.2  # between looks whether it lives, while its pipes are silent
_END_S = 1.0  # SIGKILL needs less, unless the kernel waits for a dead share or disk
_CHUNK = 1 << 16


class Lost(Exception):
    """It can't be used any more; the text says what happened, for a user, without patient data."""


class Child:
    """One process. One caller at a time; only `kill` may be called by another thread."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. `OSError` if that can't be done."""
        self._process = subprocess.Popen(  # noqa: S603 - the command is the user's own
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            # Ctrl-C on a terminal is for us: we let the import in hand end. And its own children
            # are in its group, by which they are ended.
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )
        self._in, self._out, self._err = _pipes(self._process)
        self._selector = selectors.DefaultSelector()
        for pipe in (self._out, self._err):
            self._selector.register(pipe, selectors.EVENT_READ)
        self._line = bytearray()  # what has come of the next line
        self._is_mute = False  # nothing more can come
        self._words: bytearray | None = bytearray()
        self._ending = threading.Lock()
        self._is_reaped = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, line: bytes, timeout_s: float) -> bytes:
        """Send a line, and read the one that comes back. Raises `Lost`."""
        deadline = monotonic() + timeout_s
        self._take_what_came()
        if self._line:
            raise Lost("it said something that nobody had asked for")
        self._send(line, deadline, timeout_s)
        return self._read(deadline, timeout_s)

    def greeting(self, timeout_s: float) -> bytes:
        """The line that it says by itself when it is ready. Raises `Lost`."""
        return self._read(monotonic() + timeout_s, timeout_s)

    def is_fit(self) -> bool:
        """Does it live, and has it said nothing that nobody had asked for?"""
        try:
            self._take_what_came()
        except Lost:
            return False
        return not self._line and not self._is_mute and self._how_it_ended() is None

    def keep_no_words(self) -> None:
        """Forget its stderr, and all that comes: from now on it may name patients."""
        self._words = None

    def last_words(self) -> list[str]:
        """The last lines of its stderr, as far as they were kept."""
        with suppress(Lost):
            self._take_what_came()
        return (self._words or bytearray()).decode("utf-8", "replace").splitlines()

    def kill(self) -> None:
        """Have it end at once, and its children with it."""
        with self._ending:
            if not self._is_reaped:  # until then nobody else can have its number
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                # Should it have left its group. Not by Popen.kill, which may take the end of the
                # process first, and its number is another's from then on.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and clear up."""
        self.kill()
        # A process that waits for a dead disk can't be killed yet; it never comes back to its
        # own code, so that it can do nothing more, and nobody needs to wait for it.
        with self._ending, suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            self._is_reaped = True
        self._selector.close()
        for pipe in (self._in, self._out, self._err):
            pipe.close()

    # -- both ways ---------------------------------------------------------------------------

    def _send(self, line: bytes, deadline: float, timeout_s: float) -> None:
        left = memoryview(line)
        self._selector.register(self._in, selectors.EVENT_WRITE)
        try:
            while left:
                if self._in in self._wait(deadline, timeout_s):
                    left = left[self._write(left) :]
        finally:
            self._selector.unregister(self._in)

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._in.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            raise Lost(self._how_it_ended() or "it closed its input") from None

    def _read(self, deadline: float, timeout_s: float) -> bytes:
        while b"\n" not in self._line:
            self._wait(deadline, timeout_s)
        line, _, rest = bytes(self._line).partition(b"\n")
        if rest:
            raise Lost("it said more than one line")
        self._line.clear()
        return line

    def _wait(self, deadline: float, timeout_s: float) -> set[object]:
        """Wait for what comes next, take what it said. Returns what is ready; raises `Lost`."""
        left = deadline - monotonic()
        if left <= 0:
            self._take_what_came()  # we may have been held up ourselves, and it was in time
            if b"\n" in self._line:
                return set()
            raise Lost(f"no answer within {timeout_s:g} seconds")
        ready: set[object] = {key.fileobj for key, _ in self._selector.select(min(left, TICK_S))}
        if self._err in ready:
            self._hear()
        if self._out in ready:
            self._listen()
        elif (how := self._how_it_ended()) is not None:
            self._take_what_came()
            if b"\n" not in self._line:  # else these were its last words, and they count
                raise Lost(how)
        return ready

    def _take_what_came(self) -> None:
        """Read what there is, without waiting."""
        self._hear()
        size = -1
        while size != len(self._line):
            size = len(self._line)
            self._listen(may_end=True)

    def _listen(self, *, may_end: bool = False) -> None:
        data = _read_some(self._out)
        self._is_mute = data == b""
        if data is None or (self._is_mute and may_end):
            return
        if not data:
            raise Lost(self._how_it_ended(patiently=True) or "it closed its output")
        if len(self._line) + len(data) > MAX_LINE:
            raise Lost(f"its answer is longer than {MAX_LINE} bytes")
        had_line = b"\n" in self._line
        self._line += data
        if had_line:
            raise Lost("it said more than one line")

    def _hear(self) -> None:
        data = _read_some(self._err) if self._err in self._selector.get_map() else None
        if data == b"":
            self._selector.unregister(self._err)
        elif data and self._words is not None:
            self._words += data
            del self._words[:-LAST_WORDS]

    def _how_it_ended(self, *, patiently: bool = False) -> str | None:
        """None while it lives. Does not take its number from it, as Popen.poll does."""
        until = monotonic() + (_END_S if patiently else 0.0)
        while True:
            try:
                flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
                end = os.waitid(os.P_PID, self.pid, flags)
            except ChildProcessError:  # another waits for all children of this process
                return "it ended"
            if end is not None:
                break
            if monotonic() >= until:
                return None
            threading.Event().wait(TICK_S / 10)
        if end.si_code == os.CLD_EXITED:
            return f"it ended by itself with code {end.si_status}"
        return f"it was ended by {_signal_name(end.si_status)}"


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert process.stdin is not None  # noqa: S101 - opened as pipes
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    pipes = (process.stdin, process.stdout, process.stderr)
    for pipe in pipes:
        os.set_blocking(pipe.fileno(), False)
    return pipes


def _read_some(pipe: IO[bytes]) -> bytes | None:
    """What there is, b"" at the end, None if there is nothing now."""
    try:
        return os.read(pipe.fileno(), _CHUNK)
    except BlockingIOError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
