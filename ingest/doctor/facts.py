"""What is known of a set-up before anybody judges it."""

from dataclasses import dataclass

from ingest.disks import Limits, Volume
from ingest.presence import Absence


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks, and so who was tried."""

    name: str
    may_do_everything: bool  # as root: nothing that is tried tells of the service's user
    owner: str = ""  # of the state folder, or else of the first drop folder; empty if unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the user may do with a folder."""

    exists: bool = True
    is_folder: bool = True
    may_read: bool = True
    may_write: bool = True
    may_enter: bool = True
    is_read_only: bool = False  # its whole file system is
    is_sticky: bool = False  # files of others may not be moved out of it
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFacts:
    """One drop folder."""

    name: str
    path: str
    access: Access
    absence: Absence | None = None
    after: str = "delete"  # as configured
    watch: str = "auto"  # as configured
    kind: str = ""  # of its file system
    is_network: bool = False
    closed_folders: int = 0  # below it: those that the user may not read and write
    closed_files: int = 0  # those that the user may not read, as far as was looked
    claims: int = 0  # files that are set aside
    clock_ahead_s: float = 0.0  # of the folder's own time against ours

    @property
    def is_watched(self) -> bool:
        """By events, not by sweeps only?"""
        return self.watch == "native" or (self.watch == "auto" and not self.is_network)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """An archive, or the quarantine."""

    what: str
    path: str
    access: Access
    absence: Absence | None = None
    nearest: str = ""  # the folder in which it would be made; empty if it is there
    nearest_access: Access = Access()
    apart_from: tuple[str, ...] = ()  # drop folders on another file system


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """The state folder and the ledger."""

    path: str
    access: Access
    nearest: str = ""
    nearest_access: Access = Access()
    kind: str = ""
    is_network: bool = False
    ledger: str = ""  # its path
    has_ledger: bool = False
    trouble: str = ""  # with the ledger, with its remedy
    is_running: bool = False  # does the service work with it now?
    is_in_use: bool = False  # it, or a manual import
    aliases: int = 0  # names that OpenREM was given, and that nobody took away
    ledger_ahead_s: float = 0.0  # of its last entry against our clock


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFacts:
    """What the kernel gives for watching folders."""

    instances: int  # that each user may have
    taken: int  # of them by this user, as far as can be seen
    needed: int  # native drop folders
    queued: int  # events that wait at most


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """The volumes."""

    volumes: tuple[Volume, ...]
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """OpenREM's interpreter, before it is started."""

    python: str
    exists: bool = True
    may_run: bool = True
    log_root: str = ""  # if our configuration or environment says it
    log_root_access: Access = Access()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """OpenREM's logs."""

    owner: str  # of the folder
    foreign: tuple[str, ...] = ()  # paths of those that this owner may not write
