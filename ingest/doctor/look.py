"""Collects the facts of a set-up; it reads only, and makes, opens for writing or locks nothing."""

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from ingest import claim, disks, locks, mounts, parts
from ingest.config import Drop, Settings
from ingest.doctor.facts import (
    Access,
    DiskFacts,
    DropFacts,
    EventFacts,
    LogFacts,
    ProgramFacts,
    StateFacts,
    TargetFacts,
    User,
)
from ingest.errors import LedgerError
from ingest.ledger import Ledger
from ingest.log import shown
from ingest.presence import Presence

FOLDERS_MAX = 10_000  # of a drop folder's sub-folders that are looked at
ENTRIES_MAX = 500_000  # and of what is in them
FILES_MAX = 1_000  # whose rights are looked at
_CAP_DAC_OVERRIDE, _CAP_FOWNER = 1, 3  # to pass over rights, and over owners; capability(7)
_INOTIFY = "/proc/sys/fs/inotify"


def user(settings: Settings | None) -> User:
    """Who asks."""
    owner = ""
    if settings is not None:
        places = [settings.state_dir, *(drop.path for drop in settings.drop)]
        owners = [name for place in places if (name := _owner(os.fsencode(place)))]
        owner = owners[0] if owners else ""
    return User(name=_name_of(os.geteuid()), may_do_everything=_may(_CAP_DAC_OVERRIDE), owner=owner)


def is_in_use(settings: Settings) -> bool:
    """Does a service or a manual import work now?"""
    return any(locks.is_running(settings.state_dir, name) for name in (locks.RUN, locks.IMPORT))


@contextlib.contextmanager
def ledger(settings: Settings) -> Iterator[tuple[Ledger | None, str]]:
    """The ledger if it is sound, and what is wrong with it if not. Nothing is left beside it."""
    path = settings.ledger_path
    if not os.path.lexists(path):
        yield None, ""
        return
    try:
        opened = Ledger(path, read_only=True, leave_no_trace=True)
    except LedgerError as error:
        yield None, str(error)
        return
    with contextlib.closing(opened):
        trouble = _trouble_in(opened)
        yield (None if trouble else opened), trouble


def _trouble_in(opened: Ledger) -> str:
    try:
        answer = opened.rows("PRAGMA quick_check(1)")
        opened.tallies()  # its own tables are there
    except LedgerError as error:
        return str(error)
    if answer == [("ok",)]:
        return ""
    return (
        f"the ledger {opened.path} is damaged. Next: stop openrem-ingest, move the ledger away "
        "with its -wal and -shm files, and start it again: that loses history and nothing else"
    )


def state(settings: Settings, opened: Ledger | None, trouble: str, now: float) -> StateFacts:
    """The state folder and the ledger."""
    folder = parts.real_path(settings.state_dir)
    nearest = _nearest(folder)
    said = opened.said("service") if opened is not None else None
    kind = mounts.kind_of(Path(os.fsdecode(folder)))
    return StateFacts(
        path=shown(folder),
        access=access(folder),
        nearest="" if nearest == folder else shown(nearest),
        nearest_access=access(nearest),
        kind=kind,
        is_network=mounts.is_network(Path(os.fsdecode(folder))),
        ledger=str(settings.ledger_path),
        has_ledger=os.path.lexists(settings.ledger_path),
        trouble=trouble,
        is_running=locks.is_running(settings.state_dir),
        is_in_use=is_in_use(settings),
        aliases=sum(
            _files_in(os.path.join(folder, b"work", os.fsencode(work)))
            for work in (locks.RUN, locks.IMPORT)
        ),
        ledger_ahead_s=said[1] - now if said else 0.0,
    )


def drop(settings: Settings, one: Drop, presence: Presence, now: float) -> DropFacts:
    """One drop folder."""
    (inbox,) = (inbox for inbox in parts.inboxes_of(settings) if inbox.name == one.name)
    root = inbox.root
    where = Path(os.fsdecode(root))
    its = access(root)
    is_there = its.exists and its.is_folder
    absence = presence.absence(inbox.place)
    if not is_there and not presence.knows(root):
        absence = presence.unmounted(inbox.place)  # it never was there: a mistake, not a share
    is_network = mounts.is_network(where)
    folders, files = _closed_below(root, parts.excluded_from(settings)) if is_there else (0, 0)
    return DropFacts(
        name=one.name,
        path=shown(root),
        access=its,
        absence=absence,
        after=one.after,
        watch=one.watch,
        kind=mounts.kind_of(where) or "an unknown file system",
        is_network=is_network,
        closed_folders=folders,
        closed_files=files,
        claims=_claims(root),
        clock_ahead_s=_changed_at(root) - now if is_network and is_there else 0.0,
    )


def targets(settings: Settings, presence: Presence) -> Iterator[TargetFacts]:
    """Archives, the quarantine, and the folders of rules."""
    for what, place in parts.targets_of(settings).items():
        folder, nearest = place.folder, _nearest(place.folder)
        sources = [
            one
            for one in settings.drop
            if not what.startswith("archive of ")
            or (what == f"archive of {one.name}" and one.after == "archive")
        ]
        if not sources:  # an archive that nothing is moved to
            continue
        yield TargetFacts(
            what=what,
            path=shown(folder),
            access=access(folder),
            absence=presence.unmounted(place),
            nearest="" if nearest == folder else shown(nearest),
            nearest_access=access(nearest),
            apart_from=tuple(
                one.name for one in sources if _is_apart(parts.real_path(one.path), nearest)
            ),
        )


def volumes(settings: Settings, presence: Presence) -> DiskFacts:
    """The disks."""
    found = disks.volumes(parts.volumes_of(settings), presence.unmounted)
    return DiskFacts(volumes=tuple(found), limits=parts.limits_of(settings))


def events(settings: Settings | None) -> EventFacts | None:
    """What the kernel gives for watching folders; None where it doesn't say."""
    native = [one for one in parts.inboxes_of(settings) if one.is_local] if settings else []
    try:
        return EventFacts(
            instances=_number(f"{_INOTIFY}/max_user_instances"),
            taken=_instances_taken(os.geteuid()),
            needed=len(native),
            queued=_number(f"{_INOTIFY}/max_queued_events"),
        )
    except (OSError, ValueError):
        return None


def program(settings: Settings) -> ProgramFacts:
    """OpenREM's interpreter."""
    python = settings.openrem.python
    root = settings.openrem.env.get("LOG_ROOT", os.environ.get("LOG_ROOT", ""))
    return ProgramFacts(
        python=str(python),
        exists=os.path.exists(python),
        may_run=os.path.isfile(python) and os.access(python, os.X_OK),
        log_root=root,
        log_root_access=access(os.fsencode(root)) if root else Access(),
    )


def logs(folder: str) -> LogFacts:
    """OpenREM's logs in its LOG_ROOT: does each belong to whoever the folder belongs to?"""
    foreign: list[str] = []
    try:
        uid = os.stat(folder).st_uid
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (entry.name.startswith("openrem") and entry.name.endswith(".log")):
                    continue
                status = entry.stat()
                # Others may write it by its group, or by a list of rights whose mask that is.
                is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                if uid not in (0, status.st_uid) and not is_open:
                    foreign.append(entry.path)
    except OSError:
        return LogFacts(owner="")
    return LogFacts(owner=_name_of(uid), foreign=tuple(sorted(foreign)))


# -- about one folder ------------------------------------------------------------------------------


def access(folder: bytes) -> Access:
    """What we may do with a folder."""
    try:
        status = os.stat(folder)
    except OSError:
        return Access(exists=False, is_folder=False, may_read=False, may_write=False)
    is_folder = stat.S_ISDIR(status.st_mode)
    is_ours = os.geteuid() == status.st_uid or _may(_CAP_FOWNER)

    def may(what: int) -> bool:
        return os.access(folder, what)

    return Access(
        is_folder=is_folder,
        may_read=may(os.R_OK),
        may_write=may(os.W_OK),
        may_enter=may(os.X_OK),
        is_read_only=_is_read_only(folder),
        is_sticky=bool(status.st_mode & stat.S_ISVTX) and not is_ours,
        owner=_name_of(status.st_uid),
    )


def _may(capability: int) -> bool:
    """Do we have this right of root's? In a container even root may not."""
    try:
        words = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split()
        return bool(int(words[words.index("CapEff:") + 1], 16) >> capability & 1)
    except (OSError, ValueError):
        return os.geteuid() == 0


def _is_read_only(folder: bytes) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _nearest(folder: bytes) -> bytes:
    """The folder itself, or the nearest above it that is there."""
    while folder != b"/" and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_apart(folder: bytes, other: bytes) -> bool:
    try:
        return os.stat(folder).st_dev != os.stat(other).st_dev
    except OSError:
        return False


def _closed_below(root: bytes, excluded: frozenset[bytes]) -> tuple[int, int]:
    """How many sub-folders we may not read and write, and how many files we may not read."""
    folders = files = looked_at = 0
    for entry in _below(root, excluded):
        if entry.is_dir(follow_symlinks=False):
            folders += not os.access(entry.path, os.R_OK | os.W_OK | os.X_OK)
        elif looked_at < FILES_MAX and entry.is_file(follow_symlinks=False):
            looked_at += 1
            files += not os.access(entry.path, os.R_OK)
    return folders, files


def _below(root: bytes, excluded: frozenset[bytes]) -> Iterator[os.DirEntry[bytes]]:
    """What lies below a drop folder, less our own; no more than can be looked at in a moment."""
    to_visit, folders, entries = [root], 0, 0
    while to_visit and folders < FOLDERS_MAX and entries < ENTRIES_MAX:
        folders += 1
        with contextlib.suppress(OSError), os.scandir(to_visit.pop()) as found:
            for entry in found:
                entries += 1
                if entry.name == claim.FOLDER or entry.path in excluded:
                    continue
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    to_visit.append(entry.path)


def _claims(root: bytes) -> int:
    """How many files are set aside. Aliases lie beside the claims' folders, and are not counted."""
    ours = os.path.join(root, claim.FOLDER)
    return sum(len(names) for base, _folders, names in os.walk(ours) if base != ours)


def _files_in(folder: bytes) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(1 for _entry in entries)
    except OSError:
        return 0


def _changed_at(folder: bytes) -> float:
    """The time that its file system gave it last; nobody can set it."""
    try:
        return os.stat(folder).st_ctime
    except OSError:
        return 0.0


def _owner(path: bytes) -> str:
    try:
        return _name_of(os.stat(path).st_uid)
    except OSError:
        return ""


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # of a container, or a directory service that is away
        return str(uid)


def _number(path: str) -> int:
    return int(Path(path).read_text(encoding="ascii"))


def _instances_taken(uid: int) -> int:
    """The inotify instances of this user's processes, as far as we may see them."""
    taken = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid != uid:
                continue
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                    taken += link == "anon_inode:inotify"
    return taken
