"""`ingest.openrem.importers` before processes that misbehave: typed, bounded, and replaced."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import OpenRemUnreachable, Reason
from ingest.model import Done, Failed, Importer, Vanished
from ingest.openrem import answers, importers
from ingest.openrem.child import MAX_LINE
from ingest.openrem.importers import Worker
from tests.stand_ins import CONTENT, FAILURE, HELLO, IMPORTED, STUDY, stand_in

SHORT_S = 0.4  # for what is meant to hang
pytestmark = pytest.mark.timeout(60)  # the failure of most of these tests is that they hang


@contextlib.contextmanager
def used(worker: Worker) -> Iterator[Worker]:
    """A worker that is closed at the end, and leaves no process."""
    try:
        yield worker
    finally:
        worker.close()
        assert worker.pid is None


def serves(worker: Worker, path: bytes) -> bool:
    """Does it import this object, and not tell of another?"""
    outcome = worker.import_object(path, Importer.DX)
    return isinstance(outcome, Done) and outcome.facts.content.sop_instance_uid == path.decode()


def lives(pid: int) -> bool:
    """Does this process run?"""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


ENDS = {
    "exits": ("sys.exit(0)", "it ended by itself with code 0"),
    "fails": ("raise ValueError('Doe^John')", "it ended by itself with code 1"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "it was ended by SIGKILL"),
    "closes its output": ("os.close(1); time.sleep(3600)", "it closed its output"),
    "hangs": ("time.sleep(3600)", f"no answer within {SHORT_S:g} seconds"),
    "stops": ("os.kill(os.getpid(), signal.SIGSTOP)", f"no answer within {SHORT_S:g} seconds"),
    "hangs and prints": (
        "while True: os.write(2, b'Doe^John ' * 9999)",
        f"no answer within {SHORT_S:g} seconds",
    ),
    "never ends its line": (
        "while True: os.write(1, b'x' * 65536)",
        f"its answer is longer than {MAX_LINE} bytes",
    ),
    "never ends, slowly": (
        "while True: os.write(1, b'x'); time.sleep(0.01)",
        f"no answer within {SHORT_S:g} seconds",
    ),
    "ends in the middle": ("say(answer(request)[:50]); sys.exit(0)", "it ended by itself"),
    "says two lines": ("say(2 * answer(request))", "it said more than one line"),
    "says an empty line": ("say('\\n')", "what it said is no answer"),
    "says words": ("say('Importing Doe^John\\n')", "what it said is no answer"),
    "says bytes": ("os.write(1, bytes(range(128, 256)) * 9 + b'\\n')", "what it said is no answer"),
    "says no object": ("say('[1, 2]\\n')", "what it said is no answer"),
    "nests": ("say('[' * 200_000 + '\\n')", "what it said is no answer"),
    "nests in it": (
        "say(answer(request, studies=0)[:-2] + ', \"x\": ' + '[' * 99_999 + '\\n')",
        "what it said is no answer",
    ),
    "has no id": ("say('{\"ok\": true}\\n')", "what it said is no answer"),
    "is of no op": ("say(json.dumps({'id': request['id'], 'ok': True}) + '\\n')", "no answer"),
    "is not sure": ("say(answer(request, ok='yes'))", "what it said is no answer"),
    "answers another": ("say(answer(request, id=request['id'] - 1))", "another question"),
    "answers a later one": ("say(answer(request, id=2 ** 70))", "another question"),
}


@pytest.mark.parametrize(("does", "detail"), ENDS.values(), ids=ENDS)
def test_one_that_does_not_answer_is_replaced(does: str, detail: str) -> None:
    """The object in hand has no outcome; the next one is imported as if nothing had been."""
    with used(stand_in(does, timeout_s=60)) as worker:
        assert serves(worker, b"first")
        pid = worker.pid
        assert pid is not None
        worker._timeout_s = SHORT_S if "within" in detail else 60
        outcome = worker.import_object(b"odd", Importer.DX)
        assert isinstance(outcome, Vanished)
        assert detail in outcome.detail
        assert "Doe" not in outcome.detail
        assert not lives(pid)
        worker._timeout_s = 60
        assert serves(worker, b"second")


BETWEEN = {
    "an answer twice": "say(answer(request)); say(answer(request))",
    "words": "say(answer(request)); say('done with Doe^John\\n')",
    "half a line": "say(answer(request)); say('x')",
    "its end": "say(answer(request)); sys.exit(0)",
    "the end of its output": "say(answer(request)); os.close(1); time.sleep(3600)",
}


@pytest.mark.parametrize("does", BETWEEN.values(), ids=BETWEEN)
def test_what_comes_late_is_never_taken_for_the_next_answer(does: str) -> None:
    """Nor does it cost the next object anything: the process is replaced before it."""
    with used(stand_in(does)) as worker:
        outcome = worker.import_object(b"odd", Importer.DX)
        # Together with the answer it is a lie of this one, after it nobody's.
        assert isinstance(outcome, Done | Vanished), outcome
        _until_it_is_unfit(worker)
        assert serves(worker, b"second")


def _until_it_is_unfit(worker: Worker) -> None:
    pause = threading.Event()
    for _ in range(200):
        child = worker._child
        if child is None or not child.is_fit():
            return
        pause.wait(0.02)
    raise AssertionError("it is as fit as ever")


@pytest.mark.parametrize(
    "does",
    [
        "told = answer(request); say(told[:99]); time.sleep(0.4); say(told[99:])",
        "os.write(2, b'Doe^John\\n' * 5_000_000); say(answer(request))",
        "os.close(2); time.sleep(0.4); say(answer(request))",
        "say(answer(request)); sys.exit(0)",
        "say(answer(request, unknown=[1, {'x': None}]))",
    ],
    ids=["in two halves", "much on stderr", "without stderr", "and ends", "and more"],
)
def test_one_that_answers_oddly_but_right_is_believed(does: str) -> None:
    with used(stand_in(does)) as worker:
        assert serves(worker, b"odd")
        if "exit" in does:
            _until_it_is_unfit(worker)
        assert serves(worker, b"second")


def test_one_that_reads_nothing_does_not_stop_us() -> None:
    """A request that does not fit into the pipe waits no longer than its answer would."""
    reads_nothing = "say(json.dumps({'id': 0, 'ok': True}) + '\\n'); time.sleep(3600)"
    with used(stand_in(at_start=reads_nothing, timeout_s=SHORT_S)) as worker:
        outcome = worker.import_object(b"x" * 2**20, Importer.DX)
    assert outcome == Vanished(detail=f"no answer within {SHORT_S:g} seconds")


def test_one_that_closes_its_input_is_replaced() -> None:
    closes = "os.close(0); say(answer(request)); time.sleep(3600)"
    with used(stand_in(closes)) as worker:
        assert serves(worker, b"odd")
        outcome = worker.import_object(b"next", Importer.DX)
        assert outcome == Vanished(detail="it closed its input")
        assert serves(worker, b"third")


STARTS = {
    "exits": ("sys.exit(0)", "it ended by itself with code 0"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "it was ended by SIGKILL"),
    "fails": ("raise ImportError('Doe^John')", "ImportError"),
    "says a name and ends": ("sys.exit('Doe')", "it ended by itself with code 1"),
    "greets with words": ("say('Welcome\\n'); time.sleep(3600)", "what it said is no answer"),
    "greets with bytes": (
        "os.write(1, bytes(range(128, 256)) + b'\\n'); time.sleep(3600)",
        "what it said is no answer",
    ),
    "greets without end": ("while True: os.write(1, b'x' * 65536)", "longer than"),
    "prints without end": ("while True: os.write(2, b'x' * 65536)", "no answer within"),
    "hangs": ("time.sleep(3600)", "no answer within"),
    "closes": ("os.close(1); time.sleep(3600)", "it closed its output"),
}


@pytest.mark.parametrize(("does", "detail"), STARTS.values(), ids=STARTS)
def test_one_that_does_not_start_is_an_outage(
    does: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file's fault, and told with its cause."""
    if "within" in detail:
        monkeypatch.setattr(importers, "START_S", SHORT_S)
    with used(stand_in(at_start=does)) as worker:
        for call in (worker.hello, lambda: worker.import_object(b"x", Importer.DX)):
            with pytest.raises(OpenRemUnreachable) as caught:
                call()
            assert caught.value.reason is Reason.WORKER_WONT_START
            assert detail in caught.value.detail
            assert "Doe" not in str(caught.value)


def test_a_failed_start_is_told_by_its_exception() -> None:
    told = json.dumps({"id": 0, "ok": False, "failure": {**FAILURE, "text": "no such module"}})
    with (
        used(stand_in(at_start=f"say({told!r} + '\\n'); sys.exit(1)")) as worker,
        pytest.raises(OpenRemUnreachable) as caught,
    ):
        worker.hello()
    assert caught.value.detail == "ValueError: no such module"


# -- children of its own ---------------------------------------------------------------------------

_LEAVES_A_CHILD = """
child = subprocess.Popen(["sleep", "3600"], start_new_session={own_session})
with open({pid!r}, "w") as file:
    file.write(str(child.pid))
{then}
"""


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("then", ["sys.exit(0)", "time.sleep(3600)"])
def test_a_child_of_its_that_holds_the_pipes_does_not_stop_us(
    tmp_path: Path, then: str, *, own_session: bool
) -> None:
    """Its end is seen all the same, and a child in its group ends with it."""
    pid_file = tmp_path / "pid"
    does = _LEAVES_A_CHILD.format(own_session=own_session, pid=str(pid_file), then=then)
    timeout_s = SHORT_S if "sleep" in then else 3600
    try:
        with used(stand_in(does, timeout_s=timeout_s)) as worker:
            assert isinstance(worker.import_object(b"odd", Importer.DX), Vanished)
            assert serves(worker, b"second")
        child = int(pid_file.read_text())
        if not own_session:
            pause = threading.Event()
            while lives(child):
                pause.wait(0.01)
    finally:
        if own_session:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("does", ["time.sleep(3600)", "while True: os.write(2, b'x' * 65536)"])
def test_it_can_be_ended_by_another_thread(tmp_path: Path, does: str) -> None:
    """Also while a child of its keeps the pipes open."""
    pid_file = tmp_path / "pid"
    script = _LEAVES_A_CHILD.format(own_session=True, pid=str(pid_file), then=does)
    worker = stand_in(script, timeout_s=3600)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(worker.import_object, b"odd", Importer.DX)
        pause = threading.Event()
        while not pid_file.exists() or not pid_file.read_text():
            pause.wait(0.01)
        worker.close()
        assert outcome.result() == Vanished(detail="it was ended by SIGKILL")
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    with pytest.raises(OpenRemUnreachable):
        worker.hello()


# -- the life of a process -------------------------------------------------------------------------


def test_it_is_replaced_after_its_share_of_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importers, "LIFE", 3)
    with used(stand_in()) as worker:
        pids = []
        for number in range(7):
            assert serves(worker, b"%d" % number)
            pids.append(worker.pid)
            worker.hello()
    assert len(set(pids)) == 3
    assert pids[0] == pids[2] != pids[3] == pids[5] != pids[6]


def test_it_is_replaced_after_it_ran_out_of_memory() -> None:
    told = {**FAILURE, "out_of_memory": True}
    with used(stand_in(f"say(answer(request, ok=False, failure={told!r}))")) as worker:
        assert serves(worker, b"first")
        pid = worker.pid
        outcome = worker.import_object(b"odd", Importer.DX)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.OUT_OF_MEMORY
        assert serves(worker, b"second")
        assert worker.pid != pid


def test_it_is_kept_after_any_other_failure() -> None:
    with used(stand_in(f"say(answer(request, ok=False, failure={FAILURE!r}))")) as worker:
        assert serves(worker, b"first")
        pid = worker.pid
        outcome = worker.import_object(b"odd", Importer.DX)
        assert outcome == Failed(reason=Reason.IMPORT_FAILED, detail="ValueError in rdsr.py:rdsr")
        assert worker.pid == pid


# -- answers ---------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
sound = {"id": 7, "ok": True, **IMPORTED, **HELLO, "failure": FAILURE}
kinds = st.sampled_from([answers.Ready, answers.Greeted, answers.Held])


def _read(line: bytes, kind: type[Any]) -> object:
    with contextlib.suppress(answers.NoAnswer):
        return answers.read(line, kind, 7)
    return None


@given(line=st.binary(max_size=200), kind=kinds)
def test_no_bytes_are_an_answer_by_chance(line: bytes, kind: type[Any]) -> None:
    assert _read(line, kind) is None


@given(data=st.data(), value=json_values, kind=kinds)
def test_an_answer_of_any_shape_is_read_or_refused(
    data: st.DataObject, value: object, kind: type[Any]
) -> None:
    """And what is read has the types that it should have."""
    answer = json.loads(json.dumps(sound))
    place = data.draw(st.sampled_from([answer, answer["content"], answer["studies"][0]]))
    key = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        place[key] = value
    else:
        del place[key]
    read = _read(json.dumps(answer).encode(), kind)
    if isinstance(read, answers.Held):
        assert all(type(uid) in (str, type(None)) for uid in read.content.event_uids)
        assert type(read.studies[0].event_rows) is int
        assert type(read.studies[0].has_sop) is bool


@pytest.mark.parametrize("part", [CONTENT, STUDY])
def test_no_fact_may_be_missing(part: dict[str, Any]) -> None:
    """A default could prove what nobody has seen."""
    for key in part:
        less = {name: value for name, value in part.items() if name != key}
        answer = {**IMPORTED, "content": less} if part is CONTENT else {**IMPORTED}
        if part is STUDY:
            answer["studies"] = [less]
        line = json.dumps({"id": 7, "ok": True, **answer}).encode()
        assert _read(line, answers.Held) is None, key
