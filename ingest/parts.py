"""Builds from the settings what the service and the commands work with."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ingest import config, mounts
from ingest.bundle import Shelf
from ingest.config import Drop, Settings
from ingest.context import Inbox, Rulebook
from ingest.disks import Limits
from ingest.errors import ConfigError, LedgerError
from ingest.ledger import Ledger
from ingest.model import Importer, SizesWanted
from ingest.openrem import site
from ingest.openrem.importers import Worker
from ingest.presence import AUTO, NONE, Place, Presence
from ingest.rules import Condition, Rule, Then
from ingest.settle import Patience
from ingest.upkeep import DAY_S, Rules


def real_path(path: Path) -> bytes:
    """The path with all links resolved: watchdog never reports on a linked root."""
    return os.path.realpath(os.fsencode(path))


def inboxes_of(settings: Settings) -> tuple[Inbox, ...]:
    """The configured drop folders, as the engine needs them."""
    return tuple(_inbox(settings, drop) for drop in settings.drop)


def _inbox(settings: Settings, drop: Drop) -> Inbox:
    local = not _is_remote(drop)
    quiet_s = settings.settle.quiet
    if not local:
        quiet_s = max(quiet_s, settings.settle.network_quiet)
    quarantine = settings.quarantine_path
    return Inbox(
        name=drop.name,
        root=real_path(drop.path),
        after=drop.after,
        patience=Patience(quiet_s=quiet_s, incomplete_after_s=settings.settle.incomplete_after),
        archive=real_path(drop.archive) if drop.archive else None,
        quarantine=real_path(quarantine / drop.name) if quarantine else None,
        is_local=local,
        expect=drop.expect,
        sizes=_sizes_of(drop),
        mount=drop.mount,
        archive_at=archive_at(drop),
        quarantine_at=quarantine_at(settings),
        gather_s=settings.gather.quiet,
    )


def _sizes_of(drop: Drop) -> SizesWanted | None:
    if drop.columns is None:
        return None
    return SizesWanted(
        id_title=drop.columns.id,
        height_title=drop.columns.height,
        weight_title=drop.columns.weight,
        by_study_uid=drop.study_uid,
        overwrite=drop.overwrite,
        wait_s=drop.wait_days * DAY_S if drop.unmatched == "wait" else None,
    )


def archive_at(drop: Drop) -> Place | None:
    """The archive of a drop folder."""
    if drop.archive is None:
        return None
    return Place(
        folder=real_path(drop.archive),
        mount=drop.archive_mount,
        key='archive_mount = "none" under its [[drop]]',
    )


def quarantine_at(settings: Settings) -> Place | None:
    """The whole quarantine."""
    if settings.quarantine_path is None:
        return None
    return Place(
        folder=real_path(settings.quarantine_path),
        mount=settings.quarantine.mount,
        key='mount = "none" under [quarantine]',
    )


def targets_of(settings: Settings) -> dict[str, Place]:
    """What files are moved to, by what it is."""
    found = {f"archive of {drop.name}": archive_at(drop) for drop in settings.drop}
    found["quarantine"] = quarantine_at(settings)
    found |= {f'folder of rule "{name}"': at for name, at in rule_targets_of(settings).items()}
    return {what: place for what, place in found.items() if place is not None}


def rulebook_of(settings: Settings) -> Rulebook:
    """The user's rules, as the decision needs them."""
    return Rulebook(
        rules=tuple(_rule(one) for one in settings.rule), targets=rule_targets_of(settings)
    )


def _rule(one: config.Rule) -> Rule:
    then, _, importer = one.then.partition(":")
    return Rule(
        name=one.name,
        conditions=tuple(
            Condition(subject=subject, patterns=patterns) for subject, patterns in one.match.items()
        ),
        then=Then(then),
        importer=Importer(importer) if importer else None,
        into=real_path(one.target) if one.target else None,
    )


def shelves_of(settings: Settings) -> tuple[Shelf, ...]:
    """The folders whose studies are to be packed."""
    return tuple(
        Shelf(rule=one.name, folder=real_path(one.into), quiet_s=one.quiet)
        for one in settings.rule
        if one.into is not None and one.zip
    )


def rule_targets_of(settings: Settings) -> dict[str, Place]:
    """Where what the rules take out goes, by their names."""
    return {
        one.name: Place(
            folder=real_path(one.target), mount=one.mount, key='mount = "none" under its [[rule]]'
        )
        for one in settings.rule
        if one.target is not None
    }


def renewed(settings: Settings, inbox: Inbox) -> Inbox:
    """A drop folder looked at anew: another file system may have been mounted there."""
    drops = [drop for drop in settings.drop if drop.name == inbox.name]
    return _inbox(settings, drops[0]) if drops else inbox


def _is_remote(drop: Drop) -> bool:
    if drop.watch != "auto":
        return drop.watch == "poll"
    return mounts.is_network(Path(os.fsdecode(real_path(drop.path))))


def excluded_from(settings: Settings) -> frozenset[bytes]:
    """Folders that no sweep enters: they may lie inside of a drop folder."""
    paths = [drop.path for drop in settings.drop]
    paths += [drop.archive for drop in settings.drop if drop.archive is not None]
    paths += [rule.target for rule in settings.rule if rule.target is not None]
    paths += [settings.state_dir]
    if settings.quarantine_path is not None:
        paths.append(settings.quarantine_path)
    return frozenset(real_path(path) for path in paths)


def upkeep_rules(settings: Settings) -> Rules:
    """What the user wants kept, and for how long."""
    aged_days = settings.quarantine.keep_days
    root = settings.quarantine_path
    quarantine = real_path(root) if root is not None else None
    return Rules(
        history_s=settings.history.keep_days * DAY_S,
        quarantine_s=aged_days * DAY_S if aged_days is not None else None,
        quarantine=quarantine,
        drops=frozenset(drop.name for drop in settings.drop),
        excluded=excluded_from(settings),
    )


def volumes_of(settings: Settings) -> dict[str, Place]:
    """The folders that fill up, by what they are."""
    drops = {f"drop folder {inbox.name}": inbox.place for inbox in inboxes_of(settings)}
    ledger = {"ledger": Place(folder=real_path(settings.state_dir))}
    return drops | ledger | targets_of(settings)


def limits_of(settings: Settings) -> Limits:
    """Below what free space to warn."""
    return Limits(free_mib=settings.disk.low, free_files=settings.disk.low_files)


def check_folders(settings: Settings) -> None:
    """Raise `ConfigError` unless there are drop folders and they are folders.

    A folder that is away is waited for, but one that was never there is likelier a typo.
    """
    if not settings.drop:
        raise ConfigError("drop: there is none. Next: add a [[drop]] with the path of a folder")
    for number, drop in enumerate(settings.drop, start=1):
        path = os.fsencode(drop.path)  # pathlib's questions raise where a folder above is closed
        if not os.path.exists(path):
            if _was_there(settings, drop):
                continue
            raise ConfigError(
                f"drop[{number}].path: {drop.path} does not exist, or may not be reached. Next: "
                "make the folder (or mount its share), correct the path, or the rights above it"
            )
        if not os.path.isdir(path):
            raise ConfigError(f"drop[{number}].path: {drop.path} is not a folder")
    roots = [real_path(drop.path) for drop in settings.drop]
    identities = [mounts.folder_identity(root) or root for root in roots]
    if len(set(roots)) < len(roots) or len(set(identities)) < len(roots):
        raise ConfigError(
            "drop: two drop folders are one and the same (one of them leads to the other by a "
            "link or a mount). Next: remove one of the two"
        )
    _check_apart(settings, {*roots, *identities})


def _check_apart(settings: Settings, drops: set[bytes | tuple[int, int]]) -> None:
    """Raise `ConfigError` if what leaves a drop folder would come into one, by a link or a mount.

    Args:
        settings: the configuration.
        drops: real paths and identities of the drop folders.
    """
    for key, path in settings.targets():
        real = real_path(path)
        if real in drops or mounts.folder_identity(real) in drops:
            raise ConfigError(
                f"{key}: {path} leads to a drop folder, by a link or a mount. "
                "Next: give it a folder of its own"
            )


def _was_there(settings: Settings, drop: Drop) -> bool:
    """Is it known from an earlier run, or said to be a share that may not be mounted yet?"""
    if drop.mount not in (AUTO, NONE):
        return True
    try:
        with contextlib.closing(Ledger(settings.ledger_path, read_only=True)) as ledger:
            return Presence(ledger, learns=False).knows(real_path(drop.path))
    except LedgerError:
        return False


@contextlib.contextmanager
def openrem_database(settings: Settings) -> Iterator[None]:
    """Have the database of a private OpenREM run meanwhile; a real site's runs by itself."""
    if settings.openrem.demo_site is None:
        yield
        return
    try:
        with site.running(site.open_site(settings.openrem.demo_site)):
            yield
    except site.SiteError as error:
        raise ConfigError(str(error)) from error


def worker_of(settings: Settings) -> Worker:
    """A worker process for this configuration, not yet started."""
    return Worker(
        [str(settings.openrem.python)],
        settings.openrem.env,
        timeout_s=settings.openrem.timeout,
        memory_mib=settings.openrem.memory,
        without=settings.openrem.without,
    )
