"""SIGKILL for the service or a process of OpenREM: at every step of a file, and at random moments.

Whenever it comes, no object is lost at that moment; and once the service runs again (or goes on),
OpenREM holds each object whole and once.
"""

import itertools
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.backlog import Objects, drop, lost
from tests.system.harness import Ground, Service, image, new_uid, report, sop_uid, study_uid, until

IS_DEEP = bool(os.environ.get("OPENREM_INGEST_DEEP"))
KILLS = 1000 if IS_DEEP else 60
SEED = 20261124

# Runs in the service before anything else: it ends right before or after a certain call.
_DIES = """
import importlib, os, signal
when, name, turn = {when!r}, {name!r}, {turn}
module, name = name.split(":")
holder = importlib.import_module("ingest." + module)
*way, last = name.split(".")
for step in way:
    holder = getattr(holder, step)
plain, calls = getattr(holder, last), 0
def die_at(this):
    if (when, turn) == (this, calls):
        os.kill(os.getpid(), signal.SIGKILL)
def deadly(*args, **kwargs):
    global calls
    calls += 1
    die_at("before")
    answer = plain(*args, **kwargs)
    die_at("after")
    return answer
setattr(holder, last, deadly)
"""

# Runs in OpenREM's interpreter before anything else: at a certain step of an import it kills the
# service, itself, or both, but only once.
_KILLS = """
import json, os, signal
import pydicom
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
victim, wanted, turn, mark = {victim!r}, {step!r}, {turn}, {mark!r}
reads, writes = 0, 0
def at(step):
    if (step, reads) != (wanted, turn):
        return
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    for pid in {{"the service": [os.getppid()], "itself": [os.getpid()],
                "both": [os.getppid(), os.getpid()]}}[victim]:
        os.kill(pid, signal.SIGKILL)
def around(holder, name, before, after):
    plain = getattr(holder, name)
    def called(*args, **kwargs):
        before(*args)
        answer = plain(*args, **kwargs)
        after(*args)
        return answer
    setattr(holder, name, called)
def read(*args):
    global reads, writes
    reads, writes = reads + 1, 0
    at("it is read")
def query(cursor, sql, *args):
    if "pg_advisory_xact_lock" in sql:
        at("before the lock")
def queried(cursor, sql, *args):
    global writes
    if "pg_advisory_xact_lock" in sql:
        at("after the lock")
    if sql.startswith(("INSERT", "UPDATE")):
        writes += 1
        at("after write %d" % writes)
around(pydicom, "dcmread", lambda *args: None, read)
around(CursorWrapper, "execute", query, queried)
around(BaseDatabaseWrapper, "commit", lambda *_: at("before the commit"),
       lambda *_: at("after the commit"))
around(json, "dumps", lambda *_: at("before the answer"), lambda *_: None)
"""

STUDIES = ("a report", "two images")
# What OpenREM makes of them: kind, events as told and as counted, patients, objects, doses.
WHOLE = {
    "a report": ("CT", "3", "3", "1", "1", "", "575.200", "", ""),
    "two images": ("DX", "2", "2", "1", "2", "0.00002400", "", "", ""),
}


def _study(kind: str) -> dict[str, bytes]:
    """The objects of one study; the last is the one whose turn is disturbed."""
    if kind == "a report":
        return {"sr/sub/report.dcm": report("ct")}
    study = new_uid()
    return {f"dx/sub/{number}.dcm": image(study=study) for number in range(2)}


def _dies(step: str, turn: int = 1) -> str:
    when, name = step.split()
    return _DIES.format(when=when, name=name, turn=turn)


def _is_killed(service: Service) -> None:
    until(service.has_ended, "it is killed")
    assert service.process.returncode == -signal.SIGKILL
    service.log()


def _goes_on(ground: Ground, objects: Objects, end: str) -> Service:
    """Wait until the ledger knows this end of each object, and the drop folders are tidy."""
    service = ground.services[-1].ready()
    until(
        lambda: all(end in ground.history(content) for content in objects.values()),
        f"all is {end}",
    )
    until(ground.is_tidy, "nothing of ours is left behind")
    service.stop()
    return service


def _is_whole_and_once(ground: Ground, kind: str, objects: Objects) -> None:
    """One study, whole; one scanner; one end of each object's journey, and that a good one."""
    (uid,) = {study_uid(content) for content in objects.values()}
    assert ground.held() == [(uid, *WHOLE[kind])]
    assert ground.double_scanners() == 0
    assert ground.number("SELECT count(*) FROM remapp_uniqueequipmentnames") == 1
    assert ground.quarantined() == {}
    for content in objects.values():
        states = ground.history(content)
        assert (states.count("DONE"), states[-1]) == (1, "DONE"), states


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize(
    "step",
    [
        "before ledger:Ledger.claimed",
        "before files:move",
        "after files:move",
        "before openrem.importers:Worker.import_object",
        "after openrem.importers:Worker.import_object",
        "before ledger:Ledger.proven",
        "after ledger:Ledger.proven",
        "after files:remove",
        "before ledger:Ledger.end",
        "after ledger:Ledger.end",
    ],
)
def test_the_service_is_killed_at_each_of_its_steps(ground: Ground, kind: str, step: str) -> None:
    """And started again: a set aside file is put back, and one that was disposed of is done."""
    objects = _study(kind)
    drop(ground, objects)
    _is_killed(ground.service(first=_dies(step, len(objects))))
    assert lost(ground, objects) == []
    ground.service()
    _goes_on(ground, objects, "DONE")
    assert ground.is_empty()
    _is_whole_and_once(ground, kind, objects)


@pytest.mark.parametrize(
    ("after", "step"),
    [
        ("archive", "before files:move_durably"),
        ("archive", "after files:move_durably"),
        ("archive", "after ledger:Ledger.end"),
        ("keep", "before files:unlink_alias"),
        ("keep", "after ledger:Ledger.proven"),
        ("keep", "after ledger:Ledger.end"),
    ],
)
def test_the_service_is_killed_where_the_file_stays(ground: Ground, after: str, step: str) -> None:
    """In the archive or in its folder, once, as it came."""
    ground.after = after
    ground.configure()
    objects = _study("a report")
    drop(ground, objects)
    _is_killed(ground.service(first=_dies(step)))
    (content,) = objects.values()
    assert _copies(ground) == [content]
    ground.service()
    _goes_on(ground, objects, "DONE")
    assert ground.is_empty() is (after == "archive")
    assert _copies(ground) == [content]
    _is_whole_and_once(ground, "a report", objects)


def _copies(ground: Ground) -> list[bytes]:
    """What lies in the drop folder of reports (less aliases) and in the archive."""
    folders = (ground.drop("sr"), ground.archive)
    paths = itertools.chain.from_iterable(folder.rglob("report.dcm") for folder in folders)
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("truncated", "before ledger:Ledger.rejected"),
        ("truncated", "after ledger:Ledger.rejected"),
        ("truncated", "after claim:take"),
        ("truncated", "after files:write_durably"),
        ("truncated", "after files:move_durably"),
        ("truncated", "after ledger:Ledger.end"),
        ("bad-value", "before ledger:Ledger.rejected"),
        ("bad-value", "after ledger:Ledger.rejected"),
        ("bad-value", "after files:write_durably"),
        ("bad-value", "after files:move_durably"),
        ("bad-value", "after ledger:Ledger.end"),
    ],
)
def test_the_service_is_killed_while_it_refuses_a_file(
    ground: Ground, reason: str, step: str
) -> None:
    """Before or after OpenREM saw it: it ends in quarantine, once, with its reason."""
    ground.incomplete_after = 1.0
    ground.configure()
    content = report("ct", StationName="X" * 40) if reason == "bad-value" else report("ct")[:-40]
    ground.put("sr", "sub/refused.dcm", content)
    _is_killed(ground.service(first=_dies(step)))
    assert lost(ground, {"sr/sub/refused.dcm": content}) == []
    service = ground.service().ready()
    until(lambda: _ends(ground) == ["QUARANTINED"], "it is refused")
    until(ground.is_tidy, "nothing of ours is left behind")
    service.stop()
    assert ground.is_empty()
    assert ground.quarantined() == {b"sr/sub/refused.dcm": reason}
    assert (ground.failed / "sr/sub/refused.dcm").read_bytes() == content
    assert len(list(ground.failed.rglob("*.*"))) == 2
    assert ground.held() == []


def _ends(ground: Ground) -> list[str]:
    sql = "SELECT state FROM event WHERE state IN ('DONE', 'QUARANTINED', 'GONE', 'LEFT')"
    return [str(state) for (state,) in ground.ledger(sql)]


STEPS = (
    "it is read",
    "before the lock",
    "after the lock",
    "after write 2",
    "after write 12",
    "before the commit",
    "after the commit",
    "before the answer",
)


def _killing(ground: Ground, victim: str, step: str, objects: Objects) -> Path:
    """Have OpenREM's process kill at this step of the last object. Returns the mark of it."""
    mark = ground.root / "mark"
    turn = len(objects)
    ground.openrem = "workers = 1"  # the turns of one are those of all
    ground.patch_openrem(_KILLS.format(victim=victim, step=step, turn=turn, mark=str(mark)))
    drop(ground, objects)
    return mark


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize("step", STEPS)
def test_the_service_is_killed_at_each_step_of_openrem(
    ground: Ground, kind: str, step: str
) -> None:
    """OpenREM's process goes on without it, and the next service finds what it left."""
    _is_killed_by_openrem(ground, kind, "the service", step)


@pytest.mark.parametrize("step", ["after the lock", "after write 12", "after the commit"])
def test_both_are_killed_at_once(ground: Ground, step: str) -> None:
    """As when a container is killed: what was not committed is undone."""
    _is_killed_by_openrem(ground, "two images", "both", step)


def _is_killed_by_openrem(ground: Ground, kind: str, victim: str, step: str) -> None:
    objects = _study(kind)
    _killing(ground, victim, step, objects)
    _is_killed(ground.service())
    assert lost(ground, objects) == []
    ground.service()
    _goes_on(ground, objects, "DONE")
    assert ground.is_empty()
    _is_whole_and_once(ground, kind, objects)


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize("step", STEPS)
def test_openrem_is_killed_at_each_of_its_steps(ground: Ground, kind: str, step: str) -> None:
    """The service has another process try again; what was committed is there already."""
    objects = _study(kind)
    mark = _killing(ground, "itself", step, objects)
    ground.service()
    until(mark.exists, "it is killed")
    until(lambda: not lost(ground, objects), "nothing is lost")
    service = _goes_on(ground, objects, "DONE")
    assert ground.is_empty()
    _is_whole_and_once(ground, kind, objects)
    retries = [line for line in service.events() if line["event"] == "file.will-retry"]
    assert [line["reason"] for line in retries] == ["worker-died"]
    is_committed = step in ("after the commit", "before the answer")
    last = [line["outcome"] for line in service.events() if line["event"] == "file.imported"][-1]
    assert last == ("already there" if is_committed else "imported")


# -- at random moments -----------------------------------------------------------------------------

# What is sent later, and its like in the backlog.
LIKES = {
    "dx/fresh": "dx/a 0/0.dcm",
    "mammo/fresh": "mammo/0.dcm",
    "sr/fresh": "sr/0.dcm",
    "sr/long": "sr/fluoroscopy.dcm",
}
FEW = 15  # then more is sent, so that each kill comes while there is work


def _fresh(moments: random.Random) -> Iterator[dict[str, bytes]]:
    """More of what the backlog has, without end."""
    for number in itertools.count():
        study = new_uid()
        made = {f"dx/fresh {number}/{each}.dcm": image(study=study) for each in range(4)}
        made[f"mammo/fresh/{number}.dcm"] = image("mammo")
        made[f"sr/fresh {number}.dcm"] = report("ct")
        if moments.random() < 0.3:
            made[f"sr/long {number}.dcm"] = report("fluoroscopy")
        yield made


@dataclass(slots=True)
class _Killer:
    """Kills the service, or a process of OpenREM, while they have work."""

    ground: Ground
    sent: dict[str, bytes]
    moments: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311 - not a secret
    killed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """What it takes to have the same again, as far as that goes."""
        return f"seed {SEED}, {len(self.sent)} objects, killed: {dict(self.killed)}"

    def go_on(self) -> Service:
        """Kill all those kills; returns the service that runs at last."""
        fresh = _fresh(self.moments)
        service = self.ground.service()
        while self.killed["service"] + self.killed["worker"] < KILLS:
            if sum(len(names) for names in self.ground.files().values()) < FEW:
                more = next(fresh)
                drop(self.ground, more)
                self.sent |= more
            else:
                self._wait_for_its_moment(service)
                service = self._kill(service)
        return service

    def _wait_for_its_moment(self, service: Service) -> None:
        """Soon after its start, or in mid-work."""
        if self.moments.random() < 0.7:
            service.ready()
            until(lambda: not self.ground.is_tidy() or service.has_ended(), "a file is in hand")
        service.runs_for(self.moments.uniform(0.0, 0.6))

    def _kill(self, service: Service) -> Service:
        """One kill, which counts if there was work left. Returns the service that goes on."""
        victim = self.moments.choice(("service", "worker"))
        workers = service.workers()
        assert not service.has_ended(), service.log()
        if self.ground.is_empty() or (victim == "worker" and not workers):
            return service
        self.killed["in mid-import"] += not self.ground.is_tidy()
        self.killed[victim] += 1
        if victim == "worker":
            os.kill(self.moments.choice(workers), signal.SIGKILL)
            until(lambda: not lost(self.ground, self.sent), f"nothing is lost; {self}")
            return service
        service.kill()
        assert lost(self.ground, self.sent) == [], str(self)
        return self.ground.service()


@pytest.mark.timeout(3 * 3600 if IS_DEEP else 900)
def test_killed_at_random_moments(
    ground: Ground, backlog: Objects, as_it_should_be: list[tuple[str, ...]]
) -> None:
    """All is imported in the end, whole and once, as if nothing had happened.

    An object on which OpenREM's process dies twice goes to quarantine; a retry brings it back.
    """
    killer = _Killer(ground, dict(backlog))
    service = killer.go_on()
    until(ground.is_empty, f"all have gone their way; {killer}")
    given_up = ground.quarantined()
    assert set(given_up.values()) <= {"worker-died"}, (given_up, str(killer))
    if given_up:
        said = ground.says("retry", "--all")
        assert said.code == 0, said
    until(lambda: _done(ground) >= len(killer.sent), f"all is imported; {killer}")
    until(ground.is_tidy, "nothing of ours is left behind")
    service.stop()
    sys.stdout.write(f"{killer}; {len(given_up)} objects had killed twice\n")
    _is_as_it_should_be(ground, killer.sent, backlog, as_it_should_be)


def _done(ground: Ground) -> int:
    return int(ground.ledger("SELECT count(*) FROM event WHERE state = 'DONE'")[0][0])


def _is_as_it_should_be(
    ground: Ground, sent: Objects, backlog: Objects, as_it_should_be: list[tuple[str, ...]]
) -> None:
    assert ground.is_empty()
    assert ground.quarantined() == {}
    known = {row[0]: row[1:] for row in as_it_should_be}
    expected = set(as_it_should_be)
    for place in sent.keys() - backlog.keys():
        like = next(like for head, like in LIKES.items() if place.startswith(head))
        expected.add((study_uid(sent[place]), *known[study_uid(backlog[like])]))
    assert sorted(ground.held()) == sorted(expected)
    assert ground.double_scanners() == 0
    ends = ground.ledger("SELECT sop_uid, count(*) FROM event WHERE state = 'DONE' GROUP BY 1")
    assert dict(ends) == {sop_uid(content): 1 for content in sent.values()}
