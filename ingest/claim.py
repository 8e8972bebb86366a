"""Takes a complete file aside, so that what is disposed of is what was imported.

A sender may send again under the same name at any moment, into the same inode. So before
anything is done with a file it is renamed to ``<drop>/.ingest/<claim id>/<its place in the
drop>``, where no sender looks, and its identity is checked after the rename. The folder says
everything: claims found at start are put back and become new work, with or without a ledger.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ingest import files
from ingest.errors import Changed, FileProblem, Reason, hindrance
from ingest.model import Snapshot

FOLDER = b".ingest"  # in each drop folder, on its file system; the sweep passes it over
_ALIAS = b".dcm"
_TRIES = 100
_ALIAS_NAME = re.compile(rb"[0-9a-f]{16,}-[0-9a-f]{8}" + re.escape(_ALIAS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One file set aside."""

    id: str
    root: bytes  # the drop folder
    place: bytes  # where the file lay, relative to the drop folder

    @property
    def original(self) -> bytes:
        """Where the file came from."""
        return os.path.join(self.root, self.place)

    @property
    def folder(self) -> bytes:
        """The claim's own folder."""
        return os.path.join(self.root, FOLDER, os.fsencode(self.id))

    @property
    def path(self) -> bytes:
        """Where the file lies now."""
        return os.path.join(self.folder, self.place)

    @property
    def alias(self) -> bytes:
        """A neutral ASCII name for OpenREM to read (and, if so set, to delete)."""
        return self.folder + _ALIAS


def new_id(now_ns: int) -> str:
    """An id for a claim; ids sort by the time they were made."""
    return f"{now_ns:016x}-{secrets.token_hex(4)}"


def take(claim: Claim, expected: Snapshot) -> None:
    """Set the file aside.

    Raises:
        Changed: it is gone, or no longer the version we looked at (then it is put back).
        FileProblem: it may not be moved.
    """
    # Asked first, so that no folder is made in the place of a drop folder that is away.
    if not os.path.lexists(claim.original) or _is_folder(claim.original):
        raise Changed("it is gone")
    _check_folders(claim)
    try:
        _make_folder(claim)
        files.move(claim.original, claim.path)
    except FileNotFoundError:
        _clean(claim)
        raise Changed("it is gone") from None
    except OSError as error:
        _clean(claim)
        detail = errno.errorcode.get(error.errno or 0, "unknown error")
        raise FileProblem(hindrance(error), detail) from error
    try:
        files.check_identity(claim.path, expected)
    except Changed:
        release(claim)
        raise


def _make_folder(claim: Claim) -> None:
    """Make the claim's folder, whoever removes ours just now because it is empty."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(os.path.dirname(claim.path), mode=0o700, exist_ok=True)
            return
        if not os.path.isdir(claim.root):
            return


def _check_folders(claim: Claim) -> None:
    """Whoever may write into the drop folder must not have us move files of others."""
    if _leads_elsewhere(claim):  # it has become a link since it was swept
        raise FileProblem(Reason.CANNOT_MOVE, "its folder is a link")
    try:
        ours = os.lstat(os.path.join(claim.root, FOLDER))
    except OSError:  # not there, which another thread may have seen to just now
        return
    if not stat.S_ISDIR(ours.st_mode):
        raise FileProblem(
            Reason.CANNOT_MOVE, "a file called .ingest lies where our own folder should be"
        )


def _leads_elsewhere(claim: Claim) -> bool:
    """Is a link among the folders of the file's place?"""
    folder = os.path.dirname(claim.place)
    return os.path.realpath(os.path.join(claim.root, folder)) != os.path.normpath(
        os.path.join(os.path.realpath(claim.root), folder)
    )


def release(claim: Claim) -> bool:
    """Put the file back where it came from. False if that can't be done now.

    Something newer lies there (or a file or a link has the name of its folder), or the rights
    are missing. The claim then stays, and whoever goes through `found` comes back to it.
    """
    try:
        files.unlink_alias(claim.alias)
        # Asked first, so that no folder is made where a share was unmounted under us. A claim
        # without its file was put back or disposed of: either way nothing is left to do.
        if os.path.lexists(claim.path):
            if _leads_elsewhere(claim):
                return False
            os.makedirs(os.path.dirname(claim.original), exist_ok=True)
            files.move(claim.path, claim.original)
    except OSError:
        return False
    _clean(claim)
    return True


def finish(claim: Claim) -> None:
    """Remove what an emptied claim leaves behind."""
    files.unlink_alias(claim.alias)
    _clean(claim)


def holds(root: bytes, place: bytes) -> bool:
    """Does some claim hold the file of this place?"""
    ours = os.path.join(root, FOLDER)
    return any(os.path.lexists(os.path.join(ours, name, place)) for name in _entries(ours))


def found(root: bytes, in_hand: Collection[str] = ()) -> Iterator[Claim]:
    """The claims that lie in a drop folder, oldest first, less those that are worked on now.

    Empty ones, and aliases whose claim is over, are removed on the way. Whatever else lies
    there isn't ours, and stays.
    """
    for name in _entries(os.path.join(root, FOLDER)):
        claim_id = os.fsdecode(name.removesuffix(_ALIAS))
        if claim_id in in_hand:
            continue
        folder = os.path.join(root, FOLDER, name)
        if not _is_folder(folder):
            if _ALIAS_NAME.fullmatch(name):
                with contextlib.suppress(OSError):  # without the rights: it does no harm
                    files.unlink_alias(folder)
            continue
        claim_id = os.fsdecode(name)
        places = list(_files_below(folder))
        for place in places:
            yield Claim(id=claim_id, root=root, place=place)
        if not places:
            _remove_tree_of_empty_folders(folder)
    files.remove_empty(os.path.join(root, FOLDER))


def _entries(folder: bytes) -> list[bytes]:
    """In order; none if the folder isn't there, or the whole drop folder is away."""
    if not _is_folder(folder):
        return []
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []


def _files_below(folder: bytes) -> Iterator[bytes]:
    for base, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        for name in names + links:
            yield os.path.relpath(os.path.join(base, name), folder)


def _remove_tree_of_empty_folders(folder: bytes) -> None:
    for base, _folders, _names in os.walk(folder, topdown=False):
        files.remove_empty(base)


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _clean(claim: Claim) -> None:
    with contextlib.suppress(OSError):
        _remove_tree_of_empty_folders(claim.folder)
    files.remove_empty(os.path.join(claim.root, FOLDER))
