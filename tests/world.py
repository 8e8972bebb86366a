"""A small world for tests of the promise: senders, drop folders, an OpenREM, and crashes.

The engine, the ledger, the files and the folders are real; what stands in is OpenREM, which here
holds an object wholly or not at all unless it is told to fail (the tests with the real one show
that it does), and the death of the process, which is an exception that nothing catches.
"""

import hashlib
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID

from ingest import dicom, dispose, engine, known, policy
from ingest.config import BY_HAND
from ingest.context import Ended, Inbox, Rulebook
from ingest.engine import Engine
from ingest.errors import OpenRemUnreachable, Reason
from ingest.ledger import Ledger
from ingest.lookout import Lookout, Rhythm
from ingest.model import (
    Done,
    Facts,
    Failed,
    Header,
    Importer,
    Outcome,
    Recordable,
    SizesWanted,
    State,
    StudyDone,
    StudyOutcome,
    Vanished,
)
from ingest.openrem.importers import Hello
from ingest.rules import Condition, Rule, Then
from ingest.settle import Patience
from tests.crash import Crash, Steps
from tests.objects import DX_IMAGE
from tests.strategies import a_study, facts_of

# A look for a study rests afterwards, the longer the slower the machine is: no world may depend on
# that, or it differs from one time to the next.
engine.GATHER_SHARE = 0
known.FEW = 0  # so that it is asked, although so few wait

QUIET_S = 1.0
INCOMPLETE_S = 60.0
RETRY = policy.RetryPolicy(attempts=3, initial_s=1.0, maximum_s=10.0)
ALL_DUE_S = 4000.0  # later than everything that waits for a time
QUIET_ROUNDS = 3  # the first may only find out that OpenREM is back
MANY = 200  # turns; no world needs as many

# Studies whose images a rule takes out, and the one that a rule has imported as a whole.
IGNORED, KEPT, SHELVED = 2, 3, 4
TOGETHER = -1

_UID = UID("2.25." + "7" * 30)
_STUDY = UID("2.25." + "8" * 30)


@cache
def _image() -> bytes:
    dataset = pydicom.dcmread(DX_IMAGE)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _UID
    dataset.StudyInstanceUID = _STUDY
    buffer = pydicom.filebase.DicomBytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return bytes(buffer.getvalue())


@dataclass(frozen=True, slots=True, repr=False)
class Content:
    """What a sender sends: the bytes, and the object's UID if it is a whole one."""

    data: bytes
    uid: str = ""
    study: int = 0

    def __repr__(self) -> str:
        """Without the bytes of an object."""
        return f"Content({self.uid or self.data[:40]!r})"

    @property
    def digest(self) -> bytes:
        """By which it is recognised wherever it lies."""
        return hashlib.sha256(self.data).digest()


def an_image(number: int, study: int) -> Content:
    """A whole image, one of its kind."""
    uid = f"2.25.{number:030d}".replace("2.25.0", "2.25.1", 1)
    data = _image().replace(_UID.encode(), uid.encode())
    return Content(data.replace(_STUDY.encode(), _study_uid(study).encode()), uid, study)


def _study_uid(study: int) -> str:
    return f"2.25.{9 * 10**29 + study}"


def a_text(number: int) -> Content:
    """Something that strayed in."""
    return Content(b"shopping list %d" % number)


def cut(whole: Content) -> Content:
    """What a sender has written of an object half way."""
    return Content(whole.data[: len(whole.data) // 2])


class Mode(Enum):
    """What OpenREM makes of an import."""

    WORKS = "works"
    DELETES = "works, and deletes the file that it was given"
    HICCUP = "breaks off for a passing cause"
    FAILS = "fails, nobody knows why"
    BAD_VALUE = "fails for good"
    REFUSES = "refuses the object"
    STORES_NOTHING = "says that all is well, and stores nothing"
    DELETES_ONLY = "deletes the file that it was given, and stores nothing"
    DIES = "dies before it has committed"
    DIES_LATE = "dies when it has committed"
    GOES_AWAY = "goes away in the middle"
    NO_ROOM = "has no room for what it writes beside the files"


_TROUBLES: dict[Mode, Outcome] = {
    Mode.HICCUP: Failed(reason=Reason.DATABASE_HICCUP),
    Mode.FAILS: Failed(reason=Reason.IMPORT_FAILED),
    Mode.BAD_VALUE: Failed(reason=Reason.BAD_VALUE),
    Mode.DIES: Vanished(detail=""),
    Mode.GOES_AWAY: Failed(reason=Reason.DATABASE_UNREACHABLE),
    Mode.NO_ROOM: Failed(reason=Reason.DISK_FULL),
}


@dataclass(slots=True)
class StandIn:
    """OpenREM as its worker shows it, which imports an object in one transaction."""

    holds: dict[str, bytes] = field(default_factory=dict)  # UID -> digest of the bytes stored
    in_part: set[str] = field(default_factory=set)  # left by somebody else's failed import
    stored: Counter[str] = field(default_factory=Counter)
    modes: list[Mode] = field(default_factory=list)  # of the next imports; then all is well
    meanwhile: list[Callable[[], None]] = field(default_factory=list)  # once, in mid-import
    blamed: set[bytes] = field(default_factory=set)  # contents that it failed on
    studies: Counter[str] = field(default_factory=Counter)  # imported as a whole, and how often
    late: set[bytes] = field(default_factory=set)  # contents that came after their study
    is_away: bool = False
    step: Callable[[str], None] = lambda _name: None

    def hello(self) -> Hello:
        """See `OpenRem`, here and below."""
        if self.is_away:
            raise OpenRemUnreachable(Reason.DATABASE_UNREACHABLE)
        return Hello(openrem="", database="", server="", duplicate_scanners=0)

    def import_object(self, path: bytes, _importer: Importer) -> Outcome:
        """Import it, as the mode says."""
        if self.is_away:
            return Failed(reason=Reason.DATABASE_UNREACHABLE)
        content = Content(Path(os.fsdecode(path)).read_bytes())
        header = _header_of(path)  # once, as the real one: the file may change later
        mode = self.modes.pop() if self.modes else Mode.WORKS
        self.step("import begun")
        while self.meanwhile:
            self.meanwhile.pop()()
        if mode in (Mode.DELETES, Mode.DELETES_ONLY):
            os.unlink(path)
        trouble = self._trouble(header, mode)
        if trouble is None:
            return self._import(content, header, mode)
        if mode is Mode.GOES_AWAY:
            self.is_away = True
        else:
            self.blamed.add(content.digest)
        return trouble

    def _trouble(self, header: Header, mode: Mode) -> Outcome | None:
        """What comes instead of an import, if anything does."""
        uid = header.sop_instance_uid
        if uid in self.in_part:
            part = a_study(event_uids=(uid,), event_rows=1, number_of_events=None)
            return Done(facts=facts_of(header, part, already=True))
        if mode is Mode.REFUSES:
            return Done(facts=facts_of(header, refused=True))
        if mode in (Mode.STORES_NOTHING, Mode.DELETES_ONLY) and uid not in self.holds:
            return Done(facts=facts_of(header))
        return _TROUBLES.get(mode)

    def _import(self, content: Content, header: Header, mode: Mode) -> Outcome:
        uid = header.sop_instance_uid
        already = uid in self.holds
        self.step("about to commit")
        if not already:
            self.holds[uid] = content.digest
            self.stored[uid] += 1
        self.step("committed")
        if mode is Mode.DIES_LATE:
            self.blamed.add(content.digest)
            return Vanished(detail="")
        whole = a_study(event_uids=(uid,), event_rows=1, number_of_events=1)
        return Done(facts=facts_of(header, whole, already=already))

    def import_sizes(self, path: bytes, wanted: SizesWanted) -> Outcome:
        """No folder here has tables."""
        raise NotImplementedError

    def import_study(self, folder: bytes, _importer: Importer) -> StudyOutcome:
        """Import all that lies in the folder at once, as the mode says."""
        if self.is_away:
            return Failed(reason=Reason.DATABASE_UNREACHABLE)
        paths = {os.fsdecode(name): os.path.join(folder, name) for name in os.listdir(folder)}
        contents = {
            name: Content(Path(os.fsdecode(path)).read_bytes()) for name, path in paths.items()
        }
        headers = {name: _header_of(path) for name, path in paths.items()}
        mode = self.modes.pop() if self.modes else Mode.WORKS
        self.step("import begun")
        while self.meanwhile:
            self.meanwhile.pop()()
        if mode in (Mode.DELETES, Mode.DELETES_ONLY):
            shutil.rmtree(folder)
        if mode in _TROUBLES:
            self.is_away = mode is Mode.GOES_AWAY
            if mode is not Mode.GOES_AWAY:
                self.blamed |= {content.digest for content in contents.values()}
            trouble = _TROUBLES[mode]
            assert isinstance(trouble, Failed | Vanished)
            return trouble
        before = set(self.holds)
        self._import_all(contents, headers, mode)
        if mode is Mode.DIES_LATE:
            return Vanished(detail="")
        facts = {}
        for name, header in headers.items():
            facts[name] = self._facts_together(header, contents[name], mode, before)
            before.add(header.sop_instance_uid)  # a second copy of it is no news
        return StudyDone(facts=facts)

    def _import_all(
        self, contents: dict[str, Content], headers: dict[str, Header], mode: Mode
    ) -> None:
        """In one transaction, unless it has the study."""
        (study,) = {header.study_uid for header in headers.values()}
        self.step("about to commit")
        stores = mode not in (Mode.REFUSES, Mode.STORES_NOTHING, Mode.DELETES_ONLY)
        if stores and study not in self.studies:
            self.studies[study] += 1
            for name, header in headers.items():
                self.holds[header.sop_instance_uid] = contents[name].digest
            self.stored.update({header.sop_instance_uid for header in headers.values()})
        self.step("committed")

    def _facts_together(
        self, header: Header, content: Content, mode: Mode, before: set[str]
    ) -> Facts:
        uid = header.sop_instance_uid
        if uid not in self.holds:
            self.blamed.add(content.digest)
        if mode is Mode.REFUSES and uid not in before:
            return facts_of(header, refused=True)
        if header.study_uid not in self.studies:
            return facts_of(header)
        if uid not in self.holds:
            self.late.add(content.digest)
        study = a_study(
            has_sop=uid in self.holds,
            event_uids=("1.1",),
            event_rows=1,
            number_of_events=1,
            has_ct_dose=True,
            is_from_dose_screen=True,
        )
        return facts_of(header, study, already=uid in before, event_uids=("1.1",))

    def recorded(self, objects: Sequence[Recordable]) -> Collection[Recordable]:
        """What is held, in whole or in part."""
        if self.is_away:
            return ()
        has = self.holds.keys() | self.in_part
        return [one for one in objects if one.sop_instance_uid in has]

    def prove(self, path: bytes, _importer: Importer) -> Outcome:
        """Look, and import nothing."""
        if self.is_away:
            return Failed(reason=Reason.DATABASE_UNREACHABLE)
        header = _header_of(path)
        uid = header.sop_instance_uid
        self.step("asked")
        if uid in self.holds:
            whole = a_study(event_uids=(uid,), event_rows=1, number_of_events=1)
            return Done(facts=facts_of(header, whole, already=True))
        return Done(facts=facts_of(header, a_study(has_sop=uid in self.in_part), already=True))

    def close(self) -> None:
        """Nothing runs."""


def _header_of(path: bytes) -> Header:
    header = dicom.look(path).header
    assert header is not None  # we are asked only for what has been read
    return header


class _Counting:
    """The ledger's connection, whose commits are steps like those of the file system."""

    def __init__(self, real: sqlite3.Connection, steps: Steps) -> None:
        self._real = real
        self._commit = steps.wrap("commit", lambda: real.execute("COMMIT"))

    def execute(self, statement: str, *values: Any) -> object:  # noqa: ANN401 - as sqlite3's
        """Do as told."""
        if statement == "COMMIT":
            return self._commit()
        return self._real.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever is asked of the real one
        return getattr(self._real, name)


class Life:
    """One life of the process: the ledger opened, and the parts on it, without their threads."""

    def __init__(self, world: "World") -> None:
        self.ledger = Ledger(world.ledger_path)
        self.engine = Engine(
            ledger=self.ledger,
            inboxes=world.inboxes,
            retry=RETRY,
            work=os.fsencode(world.work),
            clock=world.now,
            stopping=threading.Event(),
            on_end=world.ended,
            rulebook=Rulebook(rules=world.rules),
        )
        self.lookout = Lookout(
            self.engine.context,
            self.engine.intake,
            self.engine.house,
            rhythm=Rhythm(quick_s=0.1, full_s=5.0, tidy_after_s=5.0),
        )

    def begin(self) -> None:
        """What the service does at its start."""
        self.engine.house.adopt()
        roots = {inbox.name: inbox.root for inbox in self.engine.inboxes.values()}
        self.ledger.keep_only(roots, spare=BY_HAND, now=self.engine.context.now())

    def look(self) -> None:
        """Look through everything once."""
        self.lookout.start_over()
        for _ in range(MANY):
            if not self.lookout.turn() and not self.lookout.is_sweeping:
                return
        raise AssertionError("looking never ends")

    @contextmanager
    def counted(self, steps: Steps, openrem: StandIn) -> Iterator[None]:
        """Count all that reaches the disk or OpenREM meanwhile."""
        real = self.ledger._connection
        self.ledger._connection = _Counting(real, steps)  # type: ignore[assignment]
        openrem.step = lambda name: steps.wrap(name, lambda: None)()
        try:
            with steps.counted():
                yield
        finally:
            self.ledger._connection = real
            openrem.step = lambda _name: None


def _rule(study: int, then: Then, into: Path | None = None) -> Rule:
    condition = Condition(subject="StudyInstanceUID", patterns=(_study_uid(study),))
    where = os.fsencode(into) if into else None
    importer = Importer.CTTOSHIBA if then is Then.IMPORT else None
    return Rule(
        name=f"study {study}", conditions=(condition,), then=then, importer=importer, into=where
    )


class World:
    """Drop folders with senders on one side and OpenREM on the other."""

    def __init__(self, root: Path) -> None:
        """Make it in an empty folder."""
        self.root = root
        self.work = root / "state" / "work"
        self.work.mkdir(parents=True)
        self.ledger_path = root / "state" / "ledger.sqlite"
        self.drops = {name: root / name for name in ("delete", "archive", "keep")}
        for drop in self.drops.values():
            drop.mkdir()
        self.inboxes = tuple(
            Inbox(
                name=name,
                root=os.fsencode(drop),
                after=name,
                patience=Patience(quiet_s=QUIET_S, incomplete_after_s=INCOMPLETE_S),
                archive=os.fsencode(root / "archived") if name == "archive" else None,
                quarantine=os.fsencode(root / "failed" / name),
            )
            for name, drop in self.drops.items()
        )
        self.rules = (
            _rule(IGNORED, Then.IGNORE),
            _rule(KEPT, Then.KEEP, root / "kept"),
            _rule(SHELVED, Then.IGNORE, root / "shelved"),
            _rule(TOGETHER, Then.IMPORT),
        )
        self.openrem = StandIn()
        self.ahead_s = 0.0
        self.wanted: dict[bytes, Content] = {}  # must lie somewhere, or be held
        self.imported: Counter[str] = Counter()  # told of as imported, by place in the world
        self.life: Life | None = None
        self.late_writers: list[Callable[[], None]] = []  # who still has to write
        self.is_ledger_whole = True  # it has been there all the time
        self.may_be_late = False  # some senders send images after the rest of their study
        self._cast_off: set[int] = set()

    def now(self) -> float:
        """The time; the kernel's own stamps the files, so ours only ever runs ahead."""
        return time.time() + self.ahead_s

    def ended(self, ended: Ended) -> None:
        """Count what is told of."""
        if ended.state is State.DONE and not ended.already:
            self.imported["imported"] += 1

    # -- senders and users -----------------------------------------------------------------

    def path(self, drop: str, name: str) -> Path:
        """A place in a drop folder."""
        return self.drops[drop] / name

    def send(self, path: Path, content: Content, *, over: bool = False) -> None:
        """Have a sender write a file, in place or (``over``) by a rename over what is there."""
        path.parent.mkdir(exist_ok=True)
        with self.giving_up(path):
            target = path.with_name(path.name + ".part") if over else path
            target.write_bytes(content.data)
            if over:
                target.rename(path)
            self.wanted[content.digest] = content

    def write_through(self, file: int, content: Content) -> None:
        """Have a sender who has a file open write it anew, wherever that file lies by now."""
        before = Content(os.pread(file, 1 << 24, 0)).digest
        os.ftruncate(file, 0)
        os.pwrite(file, content.data, 0)
        if os.fstat(file).st_ino not in self._cast_off:
            self.wanted[content.digest] = content
        self._forgive(before)

    def take_away(self, path: Path) -> None:
        """Have a person remove a file."""
        with self.giving_up(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def giving_up(self, path: Path) -> Iterator[None]:
        """Whoever overwrites or removes a file gives up what it held, if nobody else has it."""
        before = Content(path.read_bytes()).digest if path.is_file() else b""
        inode = path.stat().st_ino if path.is_file() else 0
        yield
        if not path.is_file() or path.stat().st_ino != inode:
            self._cast_off.add(inode)  # who has it open still writes into the void
        self._forgive(before)

    def _forgive(self, digest: bytes) -> None:
        if digest and digest not in self.places():
            self.wanted.pop(digest, None)

    # -- the process ------------------------------------------------------------------------

    def living(self) -> Life:
        """The process, started if need be."""
        if self.life is None:
            self.life = Life(self)
            self.life.begin()
        return self.life

    def die(self) -> None:
        """End the process without a chance to put anything in order."""
        if self.life is not None:
            self.life.ledger.close()
            self.life = None

    def dying(self, steps: Steps, doing: Callable[[Life], object]) -> bool:
        """Do something, counting its steps; True if the process died of it."""
        life = self.life
        try:
            if life is None:
                life = self.life = Life(self)
                with life.counted(steps, self.openrem):
                    life.begin()
            with life.counted(steps, self.openrem):
                doing(life)
        except Crash:
            self.die()
            return True
        return False

    def run_dry(self) -> None:
        """Without any more faults: run until nothing is left to be done."""
        self.openrem.is_away = False
        self.openrem.modes.clear()
        self.openrem.meanwhile.clear()
        life = self.living()
        quiet_rounds = 0
        for _ in range(MANY):
            before = self.everything(), len(self.openrem.holds)
            self.ahead_s += ALL_DUE_S
            life.look()
            while life.engine.import_next(self.openrem):
                pass
            is_quiet = (self.everything(), len(self.openrem.holds)) == before
            quiet_rounds = quiet_rounds + 1 if is_quiet else 0
            if quiet_rounds == QUIET_ROUNDS:
                return
        raise AssertionError(f"it never comes to rest: {self.everything()}")

    # -- what is where ------------------------------------------------------------------------

    def everything(self) -> list[tuple[str, bytes]]:
        """All files but the ledger's, with what they hold."""
        return [
            (str(path.relative_to(self.root)), Content(path.read_bytes()).digest)
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and self.work.parent not in path.parents
        ]

    def places(self) -> dict[bytes, list[str]]:
        """Where each content lies; passing copies and second names don't count."""
        found: dict[bytes, list[str]] = {}
        for place, digest in self.everything():
            parts = Path(place).parts
            is_alias = len(parts) == 3 and parts[1] == ".ingest"
            if not is_alias and not place.endswith((".part", ".why.json")):
                found.setdefault(digest, []).append(place)
        return found

    def arrived(self) -> list[Path]:
        """The files that lie in the drop folders, where senders and users see them."""
        return [
            path
            for drop in self.drops.values()
            for path in sorted(drop.rglob("*"))
            if path.is_file() and ".ingest" not in path.parts and path.suffix != ".part"
        ]

    def in_quarantine(self) -> list[Path]:
        """The refused files."""
        return [
            path
            for path in sorted((self.root / "failed").rglob("*"))
            if path.is_file() and not path.name.endswith((".why.json", ".part"))
        ]

    # -- the promise ---------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is lost, nothing is counted twice, whatever refused has its reason."""
        places = self.places()
        for digest, content in self.wanted.items():
            held = self.openrem.holds.get(content.uid) == digest
            assert held or digest in places or content.study == IGNORED, f"lost: {content}"
            assert not (held and content.study >= IGNORED), f"imported, though ruled out: {content}"
        assert all(count == 1 for count in self.openrem.stored.values())
        assert all(count == 1 for count in self.openrem.studies.values())
        assert self.may_be_late or not self.openrem.late, "a study was imported without an image"
        assert self.imported["imported"] <= len(self.openrem.stored)
        for drop in self.drops.values():
            assert drop.is_dir()
        for path in self.in_quarantine():
            assert Path(os.fsdecode(dispose.why_of(bytes(path)))).is_file(), path

    def check_ledger(self) -> None:
        """Intent is in the ledger before an effect, and success only after it.

        Whatever left had its proof noted before, or the rule that says so, whatever is in
        quarantine its refusal; and what the ledger calls done with no longer lies in a claim.
        """
        if not self.ledger_path.exists():
            return
        ledger = Ledger(self.ledger_path, read_only=True)
        events = ledger.rows("SELECT state, sop_uid FROM event")
        ended = ledger.rows(
            "SELECT inode, size, mtime_ns FROM job "
            "WHERE state IN ('DONE', 'QUARANTINED', 'IGNORED')"
        )
        ledger.close()
        proven = {str(uid) for state, uid in events if state in ("PROVEN", "RULED")}
        places = self.places()
        if self.is_ledger_whole:
            for digest, content in self.wanted.items():
                assert digest in places or content.uid in proven, f"gone without proof: {content}"
            if self.in_quarantine():
                assert any(state == "REJECTED" for state, _uid in events)
        for drop in self.drops.values():
            for path in (drop / ".ingest").glob("*/**/*"):
                status = path.stat()
                assert (status.st_ino, status.st_size, status.st_mtime_ns) not in ended, path

    def check_at_rest(self) -> None:
        """And all have reached their end: what is sound is held, what isn't is in quarantine."""
        self.check()
        places = self.places()
        for digest, content in self.wanted.items():
            here = {Path(place).parts[0] for place in places.get(digest, ())}
            if content.study >= IGNORED:
                self._check_ruled(content, here)
                continue
            assert here <= {"keep", "failed", "archived"}, places[digest]
            if content.uid and digest not in self.openrem.blamed:
                assert self.openrem.holds.get(content.uid) == digest, content.uid
                assert "failed" not in here, "a sound object was refused"
            else:
                assert "failed" in here or self.openrem.holds.get(content.uid) == digest
        for drop in self.drops.values():
            assert not (drop / ".ingest").exists()

    def _check_ruled(self, content: Content, here: set[str]) -> None:
        """It is where its rule says, and in folders whose files stay."""
        where = {IGNORED: set[str](), KEPT: {"kept"}, SHELVED: {"shelved"}}[content.study]
        assert here <= {"keep"} | where, content
        assert here or not where, f"lost: {content}"

    def end(self) -> None:
        """Clean up."""
        self.die()
        shutil.rmtree(self.root)
