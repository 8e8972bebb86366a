"""The real worker against its limits: its memory, its time, and what it says."""

import contextlib
import json
import os
import random
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingest import dicom
from ingest.errors import Reason
from ingest.model import Failed, Importer, Vanished
from ingest.openrem.child import Child
from ingest.openrem.importers import WORKER, Worker, _inherited
from ingest.openrem.site import Site, query
from ingest.verify import Proof
from tests import mutations, objects, stand_ins
from tests.contract import real
from tests.contract.test_worker import imported

BIG = 250 << 20  # unpacked; what is longer our own look refuses
SMALL_MIB = 256


@contextlib.contextmanager
def a_small_worker(site: Site, database: str) -> Iterator[Worker]:
    """Our worker with little memory."""
    worker = Worker(
        [str(site.python)], site.environment(database), timeout_s=120.0, memory_mib=SMALL_MIB
    )
    try:
        yield worker
    finally:
        worker.close()


def test_an_import_that_wants_too_much_memory_is_undone(
    site: Site, database: str, tmp_path: Path
) -> None:
    """It is told as that, nothing is left of it, and the next import is made by another."""
    path = objects.deflated(objects.DX_IMAGE, tmp_path / "big.dcm", BIG)
    assert dicom.look(path).problem is None
    with a_small_worker(site, database) as worker:
        worker.hello()
        before, pid = real.content(site, database), worker.pid
        outcome = worker.import_object(bytes(path), Importer.DX)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.OUT_OF_MEMORY
        assert real.differences(real.content(site, database), before) == []
        assert isinstance(
            imported(worker, objects.variant(objects.DX_IMAGE, tmp_path / "x")), Proof
        )
        assert worker.pid != pid


def test_with_the_memory_of_the_default_it_is_imported(
    site: Site, database: str, tmp_path: Path
) -> None:
    """So it was the limit, and nothing else, that stopped it."""
    path = objects.deflated(objects.DX_IMAGE, tmp_path / "big.dcm", BIG)
    with real.a_worker(site, database) as worker:
        assert isinstance(imported(worker, path), Proof)


def test_the_smallest_memory_is_enough_for_every_object_of_openrems_own_tests(
    site: Site, database: str, corpus: dict[str, Path]
) -> None:
    """The longest dose report, and the largest images."""
    names = ("RF-RDSR-Philips_Azurion.dcm", "MG-Im-Hologic-PropProj.dcm", "DX-Im-GE_XR220-1.dcm")
    with a_small_worker(site, database) as worker:
        for name in names:
            assert isinstance(imported(worker, corpus[name]), Proof), name


def test_one_that_hangs_in_mid_import_is_given_up(
    site: Site, database: str, corpus: dict[str, Path]
) -> None:
    """Its import is undone, the next one is complete, and nothing of the first comes late."""
    path = corpus["RF-RDSR-Philips_Azurion.dcm"]
    before = real.content(site, database)
    with real.a_worker(site, database, timeout_s=15.0) as worker:
        worker.hello()
        pid = worker.pid
        assert pid is not None
        outcome = real.in_mid_import(site, database, worker, path, 64)
        os.kill(pid, signal.SIGSTOP)
        assert outcome.result() == Vanished(detail="no answer within 15 seconds")
        real.wait_for_sessions_to_end(site, database)
        assert real.differences(real.content(site, database), before) == []
        worker._timeout_s = 120.0
        assert isinstance(imported(worker, path), Proof)


def test_the_stand_ins_speak_as_the_real_one_does(
    site: Site, database: str, tmp_path: Path
) -> None:
    """What the other tests make of odd processes holds for the real one."""
    command = [str(site.python), str(WORKER), "0"]
    child = Child(command, {**_inherited(), **site.environment(database)})
    try:
        assert json.loads(child.greeting(120)) == stand_ins.GREETING

        def says(**request: object) -> dict[str, Any]:
            answer: dict[str, Any] = json.loads(child.ask(json.dumps(request).encode() + b"\n", 60))
            assert answer.pop("id") == request["id"]
            assert answer.pop("ok") == ("failure" not in answer)
            return answer

        (tmp_path / "broken.dcm").write_bytes(b"no DICOM")
        report = {"importer": "rdsr", "path": str(objects.CT_REPORT)}
        broken = {"importer": "rdsr", "path": str(tmp_path / "broken.dcm")}
        assert _form(says(id=1, op="hello")) == _form(stand_ins.HELLO)
        assert _form(says(id=2, op="import", **report)) == _form(stand_ins.IMPORTED)
        proved = {key: stand_ins.IMPORTED[key] for key in ("content", "studies")}
        assert _form(says(id=3, op="prove", **report)) == _form(proved)
        failure = says(id=4, op="import", **broken)["failure"]
        assert _form(failure) == _form(stand_ins.FAILURE)
        assert says(id=5, op="ping") == {}
    finally:
        child.end()


def _form(value: object) -> object:
    """Keys and types; of a list, what all of its members have in common; None is of any type."""
    if isinstance(value, dict):
        return {key: _form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_form(inner) for inner in value if inner is not None][:1]
    return type(value).__name__


def test_a_bad_value_deep_within_sequences_is_told_at_once(
    site: Site, database: str, tmp_path: Path
) -> None:
    """Each level doubled pydicom's words for it and more: 14 of them took more than a minute."""
    value = struct.pack("<HHLHH2sH4s", 0xFFFE, 0xE000, 12, 0x0018, 0x9306, b"FD", 4, b"half")
    path = tmp_path / "x.dcm"
    chance = random.Random(1)  # noqa: S311 - not a secret
    path.write_bytes(mutations.report_with(chance, mutations.nested_content(40, value)))
    with real.a_worker(site, database, timeout_s=30) as worker:
        outcome = worker.import_object(bytes(path), real.importer_of(path))
        assert outcome == Failed(
            reason=Reason.IMPORT_FAILED, detail="BytesLengthException in worker.py:tag_in_exception"
        )
    rows = query(site, "SELECT length(error) < 100000 FROM remapp_backgroundtask", database)
    assert rows == [("t",)]
