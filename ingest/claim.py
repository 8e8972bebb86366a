"""Takes a complete file aside, so that what is disposed of is what was imported.

A sender may send again under the same name at any moment, into the same inode. So before
anything is done with a file it is renamed to ``<drop>/.ingest/<claim id>/<its place in the
drop>``, where no sender looks, and its identity is checked after the rename. The folder says
everything: claims found at start are put back and become new work, with or without a ledger.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ingest import files
from ingest.errors import Changed, FileProblem, Reason
from ingest.model import Snapshot

FOLDER = b".ingest"  # in each drop folder, on its file system; the sweep passes it over


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
        return os.path.join(self.root, FOLDER, self.id.encode())

    @property
    def path(self) -> bytes:
        """Where the file lies now."""
        return os.path.join(self.folder, self.place)

    @property
    def alias(self) -> bytes:
        """A neutral ASCII name for OpenREM to read (and, if so set, to delete)."""
        return os.path.join(self.root, FOLDER, self.id.encode() + b".dcm")


def new_id(now_ns: int) -> str:
    """An id for a claim; ids sort by the time they were made."""
    return f"{now_ns:016x}-{secrets.token_hex(4)}"


def take(claim: Claim, expected: Snapshot) -> None:
    """Set the file aside.

    Raises:
        Changed: it is gone, or no longer the version we looked at (then it is put back).
        FileProblem: it may not be moved.
    """
    try:
        os.makedirs(os.path.dirname(claim.path), mode=0o700, exist_ok=True)
        files.move(claim.original, claim.path)
    except FileNotFoundError:
        _clean(claim)
        raise Changed("it is gone") from None
    except OSError as error:
        _clean(claim)
        detail = errno.errorcode.get(error.errno or 0, "unknown error")
        raise FileProblem(Reason.CANNOT_MOVE, detail) from error
    try:
        files.check_identity(claim.path, expected)
    except Changed:
        release(claim)
        raise


def release(claim: Claim) -> bool:
    """Put the file back where it came from. False if something newer lies there now.

    The claim then stays until the newer file has gone its way; `recover` comes back to it.
    """
    files.unlink_alias(claim.alias)
    # Asked first, so that no folder is made where a share was unmounted under us. A claim
    # without its file was put back or disposed of: either way nothing is left to do.
    if os.path.lexists(claim.path):
        os.makedirs(os.path.dirname(claim.original), exist_ok=True)
        try:
            files.move(claim.path, claim.original)
        except FileExistsError:
            return False
    _clean(claim)
    return True


def finish(claim: Claim) -> None:
    """Remove what an emptied claim leaves behind."""
    files.unlink_alias(claim.alias)
    _clean(claim)


def found(root: bytes, in_hand: Collection[str] = ()) -> Iterator[Claim]:
    """The claims that lie in a drop folder, oldest first, less those that are worked on now.

    Empty ones, and aliases whose claim is over, are removed on the way.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(os.path.join(root, FOLDER)))
    except OSError:  # there are none, or the whole drop folder is away
        return
    for name in names:
        claim_id = os.path.splitext(name)[0].decode("ascii", "replace")
        if claim_id in in_hand:
            continue
        folder = os.path.join(root, FOLDER, name)
        if os.path.islink(folder) or not os.path.isdir(folder):
            files.unlink_alias(folder)
            continue
        places = list(_files_below(folder))
        for place in places:
            yield Claim(id=claim_id, root=root, place=place)
        if not places:
            _remove_tree_of_empty_folders(folder)
    files.remove_empty(os.path.join(root, FOLDER))


def _files_below(folder: bytes) -> Iterator[bytes]:
    for base, _folders, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(base, name), folder)


def _remove_tree_of_empty_folders(folder: bytes) -> None:
    for base, _folders, _names in os.walk(folder, topdown=False):
        files.remove_empty(base)


def _clean(claim: Claim) -> None:
    with contextlib.suppress(OSError):
        _remove_tree_of_empty_folders(claim.folder)
    files.remove_empty(os.path.join(claim.root, FOLDER))
