"""Judges folders, disks, the ledger, and what the kernel gives for watching them."""

from collections.abc import Iterator

from ingest import disks
from ingest.doctor.facts import (
    Access,
    DiskFacts,
    DropFacts,
    EventFacts,
    StateFacts,
    TargetFacts,
    User,
)
from ingest.findings import Finding, Level, error, note, ok, warning

SKEW_S = 5.0  # what two clocks may differ by without notice
SILENT_S = 60.0  # the service writes to its ledger every ten seconds
QUEUE_MIN = 4096  # events; the kernel's usual is 16384
_SUDO = "sudo -u {} openrem-ingest doctor"


def judge_user(user: User) -> Iterator[Finding]:
    """Who was tried."""
    logs = (
        f"and OpenREM, which is started for this, makes log files that are missing in its LOG_ROOT "
        f"{user.name}'s"
    )
    if not user.may_do_everything:
        yield ok(f"all is tried as the user {user.name}")
    elif user.owner not in {"", user.name}:
        yield note(
            f"all is tried as {user.name}, who may do everything",
            f"the folders belong to {user.owner}: whether that user may do what the service has to "
            f"do was not tried; {logs}",
            f"run it as the user that the service runs as: {_SUDO.format(user.owner)}",
        )
    else:
        yield note(
            f"all is tried as {user.name}", f"the service has to run as the same user; {logs}"
        )


def judge_drop(drop: DropFacts, user: User, *, is_in_use: bool) -> Iterator[Finding]:
    """One drop folder.

    Args:
        drop: what is known of it.
        user: who was tried.
        is_in_use: a service runs: what it has set aside is in its hand.
    """
    label = f"drop folder {drop.name} ({drop.path})"
    found = [*_whether_usable(label, drop, user)]
    if not any(one.level is Level.ERROR for one in found):
        found += [*_how_watched(label, drop), *_leftovers(label, drop, is_in_use=is_in_use)]
    if not any(one.level in {Level.WARNING, Level.ERROR} for one in found):
        how = "watched by events" if drop.is_watched else "swept"
        found.insert(0, ok(f"{label}: may be read and written; {drop.kind}, {how}"))
    yield from found


def _whether_usable(label: str, drop: DropFacts, user: User) -> Iterator[Finding]:
    access = drop.access
    if drop.absence is not None:
        yield error(
            f"{label} is offline: {drop.absence.why}",
            "nothing is imported from it meanwhile; its files are not lost",
            drop.absence.next_step,
        )
    elif not access.exists:
        yield error(
            f"{label} does not exist, or may not be reached by {user.name}",
            "Conquest loses objects in silence while it is missing, and the service doesn't start",
            "make the folder (or mount its share), correct its path in the configuration, or the "
            "rights of the folders above it",
        )
    elif not access.is_folder:
        yield error(
            f"{label} is not a folder",
            "nothing can be dropped into it, and the service doesn't start",
            "correct its path in the configuration",
        )
    elif drop.after == "keep" and access.may_read and access.may_enter and not access.may_write:
        yield note(
            f"{label}: {user.name} may not write into it",
            'its files are imported and stay (after = "keep"); refused ones stay, too',
        )
    else:
        yield from _rights(label, drop.path, access, user, "take files out of it")
        if drop.closed_files:
            yield warning(
                f"{label}: {user.name} may not read {_count(drop.closed_files, 'file')} in it",
                "what may not be read goes to quarantine",
                "have the sender write files that this user may read (Conquest: a umask of 022 "
                f"where it is started), then: sudo setfacl -R -m u:{user.name}:rwX {drop.path}",
            )
        if drop.closed_folders:
            count = _count(drop.closed_folders, "sub-folder")
            yield error(
                f"{label}: {user.name} may not read and write {count} in it",
                "what lies there can't be imported",
                f"give {user.name} the rights: sudo setfacl -R -m u:{user.name}:rwX {drop.path}",
            )


def _rights(label: str, path: str, access: Access, user: User, to: str) -> Iterator[Finding]:
    if access.is_read_only:
        yield error(
            f"{label} lies on a file system that is read-only",
            f"openrem-ingest can't {to}: files wait there",
            "check that disk (after an error the kernel makes it read-only), and mount it writable",
        )
        return
    missing = [
        word
        for word, may in (
            ("read", access.may_read),
            ("write", access.may_write),
            ("enter", access.may_enter),
        )
        if not may
    ]
    if missing:
        owner = access.owner
        other = ""
        if owner not in {"", "root", user.name}:
            other = f"; or, if the service runs as {owner}, check as that: {_SUDO.format(owner)}"
        yield error(
            f"{label}: {user.name} may not {', '.join(missing)} it",
            f"openrem-ingest can't {to} as this user",
            f"give {user.name} the rights: sudo setfacl -m u:{user.name}:rwx {path}{other}",
        )
    elif access.is_sticky:
        yield error(
            f"{label} has the sticky bit, and belongs to {access.owner}",
            f"only the owner of a file may move it out of there: {user.name} may not take what "
            "other users (such as Conquest's) put in",
            f"take it away: sudo chmod -t {path}",
        )


def _how_watched(label: str, drop: DropFacts) -> Iterator[Finding]:
    if drop.watch == "native" and drop.is_network:
        yield warning(
            f'{label}: watch = "native", but it lies on a network file system ({drop.kind})',
            "events tell nothing of what other machines write there, and a file may be taken for "
            "complete too soon",
            'write watch = "auto" under its [[drop]] (or take the line out)',
        )
    elif drop.watch == "poll" and not drop.is_network:
        yield note(
            f'{label}: watch = "poll", although it lies on a local file system ({drop.kind})',
            'new files are noticed a little later than with watch = "auto"',
        )
    if drop.is_network and drop.clock_ahead_s > SKEW_S:
        yield warning(
            f"{label}: the file server's clock is ahead of ours by {drop.clock_ahead_s:.0f} s",
            "how long a file has been still, and how old it is, is then judged wrongly",
            "set the clocks of both machines by a time server (NTP)",
        )


def _leftovers(label: str, drop: DropFacts, *, is_in_use: bool) -> Iterator[Finding]:
    if drop.claims and not is_in_use:
        yield note(
            f"{label}: {_count(drop.claims, 'file')} set aside in its .ingest, and no service runs",
            "left by a crash or a kill; nothing is lost",
            "start the service: it puts them back and imports them",
        )


def judge_target(target: TargetFacts, user: User) -> Iterator[Finding]:
    """An archive, or the quarantine."""
    label = f"{target.what} ({target.path})"
    if target.absence is not None:
        yield error(
            f"{label} is offline: {target.absence.why}",
            "files that are to be moved there wait",
            target.absence.next_step,
        )
        return
    found = [*_whether_there(label, target, user)]
    if not any(one.level is Level.ERROR for one in found):
        made = f"is made in {target.nearest} when first needed" if target.nearest else "is there"
        found.append(ok(f"{label} {made}, and may be written"))
    yield from found
    if target.apart_from:
        yield note(
            f"{label} lies on another file system than {', '.join(target.apart_from)}",
            "moving a file there is a copy, which takes a little longer and is checked",
        )


def _whether_there(
    label: str, place: TargetFacts | StateFacts, user: User, to: str = "move files there"
) -> Iterator[Finding]:
    """Is it a folder for this user, or can it be made one?"""
    if place.access.exists and not place.access.is_folder:
        yield error(
            f"{label} is not a folder",
            f"openrem-ingest can't {to}",
            "correct its path in the configuration, or move away what lies there",
        )
    elif place.access.exists:
        yield from _rights(label, place.path, place.access, user, to)
    elif any(_rights(label, place.nearest, place.nearest_access, user, to)):
        yield error(
            f"{label} does not exist, and {user.name} may not make it in {place.nearest}",
            f"openrem-ingest can't {to}",
            f"make it: sudo install -d -o {user.name} {place.path}",
        )


def judge_state(state: StateFacts, user: User) -> Iterator[Finding]:
    """The state folder and the ledger."""
    label = f"state folder ({state.path})"
    found = [*_whether_there(label, state, user, "keep its ledger")]
    if state.is_network:
        found.append(
            error(
                f"{label} lies on a network file system ({state.kind})",
                "the ledger's database (SQLite) may be damaged there",
                "name a folder on a local disk as state_dir",
            )
        )
    found += _about_the_ledger(state)
    if not any(one.level in {Level.ERROR, Level.WARNING} for one in found):
        ledger = "the ledger is sound" if state.has_ledger else "the ledger is made at the start"
        found.append(ok(f"{label} may be written, and {ledger}"))
    if state.is_running:
        found.append(ok("the service runs"))
    else:
        found.append(note("the service does not run", "", "start it: openrem-ingest run"))
    if state.aliases and not state.is_in_use:
        found.append(
            note(
                f"{label}: {_count(state.aliases, 'name')} in work that a crash has left",
                "second names of files, which do no harm",
                "nothing: the service clears them up when it starts",
            )
        )
    yield from found


def _about_the_ledger(state: StateFacts) -> Iterator[Finding]:
    if state.trouble:
        what, _, next_step = state.trouble.partition(" Next: ")
        yield error(what, "the service can't work with it; no file is lost", next_step)
    elif state.is_running and not state.has_ledger:
        yield error(
            f"the ledger {state.ledger} was moved away while the service uses it",
            "what is written of history meanwhile is lost; no file is lost",
            "start the service again",
        )
    elif state.is_running and state.ledger_ahead_s < -SILENT_S:
        yield warning(
            f"the running service has not written to its ledger for {-state.ledger_ahead_s:.0f} s",
            "it does so every ten seconds: it hangs, or can't write",
            "see its log, and check the owner and the free space of the state folder",
        )
    elif state.ledger_ahead_s > SKEW_S:
        yield warning(
            f"the ledger's last entry is {state.ledger_ahead_s:.0f} s in the future",
            "the machine's clock was ahead, or is behind now",
            "set the machine's clock by a time server (NTP)",
        )


def judge_disks(facts: DiskFacts) -> Iterator[Finding]:
    """Free space and inodes."""
    for volume in facts.volumes:
        holds = ", ".join(volume.holds)
        if volume.is_low(facts.limits):
            yield warning(
                f"the disk of {volume.path} has only {volume.room} ({holds})",
                disks.WHY,
                "free space on it ([disk] in the configuration sets the limit); openrem-ingest "
                "deletes nothing to make room",
            )
        else:
            yield ok(f"the disk of {volume.path} has {volume.room} ({holds})")


def judge_events(facts: EventFacts, *, is_in_use: bool) -> Iterator[Finding]:
    """The kernel's limits for watching folders."""
    free = facts.instances - facts.taken
    is_known = not is_in_use or facts.needed > facts.instances
    if facts.needed > free and is_known:
        yield warning(
            f"fs.inotify.max_user_instances is {facts.instances}, of which this user has "
            f"{facts.taken}; {facts.needed} more are needed",
            "some drop folders can't be watched by events: they are swept, which takes a moment "
            "longer",
            f"raise it: sudo sysctl fs.inotify.max_user_instances={facts.taken + facts.needed + 64}"
            " (and write the same into a file in /etc/sysctl.d)",
        )
    elif facts.queued < QUEUE_MIN:
        yield warning(
            f"fs.inotify.max_queued_events is only {facts.queued}",
            "when many files come at once, events are lost; sweeps find the files all the same, "
            "but later",
            "raise it: sudo sysctl fs.inotify.max_queued_events=16384 (and write the same into a "
            "file in /etc/sysctl.d)",
        )
    elif facts.needed > free:
        yield note(
            f"whether fs.inotify.max_user_instances ({facts.instances}) is enough is not checked "
            "while openrem-ingest runs",
            f"this user has {facts.taken} of them, and its own may be among those; the service "
            "logs a folder that can't be watched, and sweeps it",
            "stop it and check again, if you want to know",
        )
    else:
        yield ok(f"the kernel's limits for watching are enough (for {facts.needed} folders)")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
