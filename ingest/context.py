"""What the turns share: the folders, the ledger, the clock, the files in hand, the ways to tell."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from ingest import log, rules
from ingest.claim import Claim
from ingest.dicom import Look
from ingest.errors import Reason
from ingest.ledger import Ledger
from ingest.model import Decision, Header, Importer, Job, SizesWanted, Snapshot, State
from ingest.presence import NONE, Absence, Place, Presence
from ingest.rules import Rule
from ingest.settle import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A drop folder as the engine needs it, or the folder of a manual import."""

    name: str
    root: bytes  # its real path
    after: str  # delete | archive | keep
    patience: Patience
    archive: bytes | None = None
    quarantine: bytes | None = None  # None: refused files stay where they are
    is_local: bool = True  # a read lease tells whether somebody writes
    expect: tuple[Importer, ...] = ()
    sizes: SizesWanted | None = None  # tables of heights and weights come here, too
    is_drop: bool = True  # else it is the user's own folder: emptied sub-folders stay
    ruled_as: str | None = None  # the drop folder's name to rules, if it isn't `name`
    mount: str = NONE  # what must be mounted for it, see presence.py
    archive_at: Place | None = None  # its archive, and what must be mounted for that
    quarantine_at: Place | None = None  # the whole quarantine
    gather_s: float = 0.0  # without a further image, then a study is imported as a whole

    @property
    def place(self) -> Place:
        """Where it is, and what must be mounted for it."""
        return Place(folder=self.root, mount=self.mount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a file, for whoever shows it."""

    inbox: Inbox
    path: bytes
    state: State
    reason: Reason | None = None
    detail: str = ""
    already: bool = False
    importer: Importer | None = None
    now_at: bytes = b""  # where the file is now, if it was moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """The user's rules, and where what they take out goes."""

    rules: tuple[Rule, ...] = ()  # the first that matches decides
    targets: Mapping[str, Place] = field(default_factory=dict)  # by the rule's name


class Context:
    """The common ground of the turns. Its methods may be called by any thread."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        inboxes: Sequence[Inbox],
        clock: Callable[[], float],
        stopping: threading.Event,
        on_end: Callable[[Ended], None],
        rulebook: Rulebook | None = None,
    ) -> None:
        """Lay it out.

        Args:
            ledger: where every transition goes.
            inboxes: the folders that are served.
            clock: the time (seconds since the epoch).
            stopping: set when all is to end; what breaks off then is our own doing.
            on_end: told of each file whose journey ended.
            rulebook: the user's rules.
        """
        self.ledger = ledger
        self.rulebook = rulebook or Rulebook()
        self.keywords = rules.keywords_of(self.rulebook.rules)  # of the elements that they ask for
        self.inboxes: dict[str, Inbox] = {inbox.name: inbox for inbox in inboxes}
        self.now = clock
        self.stopping = stopping
        self.in_hand: dict[str, Job] = {}  # by claim id; what the ledger calls claimed is here
        self.presence = Presence(ledger)
        self.looked_through = True  # has everything been seen once? (see lookout.py)
        self.offline: Mapping[str, Absence] = {}  # by name: folders that are not there for now
        self._on_end = on_end

    def served(self) -> list[str]:
        """The names of the folders that are there."""
        offline = self.offline
        return [name for name in self.inboxes if name not in offline]

    def is_offline(self, inbox: Inbox) -> bool:
        """Is a folder not there at this very moment? Then its files are not gone."""
        return self.presence.absence(inbox.place) is not None

    def check_target(self, place: Place | None) -> None:
        """Raise `OSError` (ENODEV) if a file moved there would lie on the wrong file system."""
        if place is not None:
            self.presence.check_target(place)

    def decide(self, inbox: Inbox, look: Look) -> Decision:
        """What is to happen to a complete object in this folder."""
        assert look.header is not None  # noqa: S101 - it is complete
        drop = inbox.name if inbox.ruled_as is None else inbox.ruled_as
        return rules.decide(look.header, self.rulebook.rules, drop=drop, values=look.values)

    def today(self) -> date:
        """The date on this machine's calendar."""
        return datetime.fromtimestamp(self.now()).astimezone().date()

    def claim_of(self, inbox: Inbox, job: Job) -> Claim:
        """The claim that holds a claimed file."""
        return Claim(id=job.claim, root=inbox.root, place=os.path.relpath(job.path, inbox.root))

    def see_again(self, job: Job, found: Snapshot) -> Job:
        """Have a file of a turn of ours start again, as it was found just now."""
        return self.ledger.see(
            drop=job.drop, path=job.path, snapshot=found, now=self.now(), in_hand=True
        )

    def wait(
        self,
        job: Job,
        reason: Reason | None,
        detail: str,
        delay_s: float,
        attempts: int | None = None,
    ) -> None:
        """Have a file looked at again after a while."""
        self.ledger.wait(
            job,
            reason=reason,
            detail=detail,
            not_before=self.now() + delay_s,
            attempts=attempts,
        )

    def emptied(self, inbox: Inbox, path: bytes) -> None:
        """Note that a file was taken from its sub-folder, which may now be empty."""
        folder = os.path.dirname(path)
        if inbox.is_drop and folder != inbox.root and inbox.after != "keep":
            self.ledger.emptied(folder, self.now())

    def who(self, job: Job, header: Header | None = None) -> dict[str, object]:
        """What the log may tell of a file."""
        header = header or job.header
        who: dict[str, object] = {
            "drop": job.drop,
            "file": log.safe_name(job.path),
            "job": job.id,
        }
        if header is not None:
            who |= {
                "sop_instance_uid": header.sop_instance_uid,
                "study_uid": header.study_uid,
                "modality": header.modality,
                "station": header.station,
            }
        return who

    def tell_of_folder(self, inbox: Inbox, path: bytes, reason: Reason) -> None:
        """Tell whoever listens of a folder that can't be looked into."""
        self._on_end(Ended(inbox=inbox, path=path, state=State.LEFT, reason=reason))

    def tell(
        self,
        inbox: Inbox,
        job: Job,
        state: State,
        *,
        reason: Reason | None = None,
        detail: str = "",
        already: bool = False,
        now_at: bytes = b"",
    ) -> None:
        """Tell whoever listens of an end."""
        self._on_end(
            Ended(
                inbox=inbox,
                path=job.path,
                state=state,
                reason=reason,
                detail=detail,
                already=already,
                importer=job.importer,
                now_at=now_at,
            )
        )


def words(reason: Reason, detail: str) -> dict[str, str]:
    """What the log tells of a reason."""
    return {
        "reason": reason.code,
        "why": reason.why,
        "detail": detail,
        "next": reason.next_step,
    }
