"""Sorts what OpenREM's importers raise into reasons: a pure function.

The type of an exception can lie (numpy in ``add_standard_names`` turned a database error into
a TypeError), so the database's health after the failure, and its SQLSTATE, go first.
"""

from ingest.errors import Reason
from ingest.openrem.answers import Failure

# SQLSTATE classes (PostgreSQL manual, appendix A)
_BY_STATE: dict[str, Reason] = {
    "25006": Reason.DATABASE_NOT_READY,  # read-only transaction
    "42P01": Reason.DATABASE_NOT_READY,  # undefined table: not migrated
    "42703": Reason.DATABASE_NOT_READY,  # undefined column
    "42501": Reason.DATABASE_NOT_READY,  # insufficient privilege
    "53100": Reason.DATABASE_NOT_READY,  # disk full
    "58030": Reason.DATABASE_NOT_READY,  # input or output failed
    "53200": Reason.DATABASE_HICCUP,  # out of memory
    "53300": Reason.DATABASE_UNREACHABLE,  # too many connections
    "55P03": Reason.BUSY,  # lock timeout
    "57014": Reason.DATABASE_HICCUP,  # query cancelled
    "40P01": Reason.DATABASE_HICCUP,  # deadlock
    "40001": Reason.DATABASE_HICCUP,  # serialization failure
    "23505": Reason.DATABASE_HICCUP,  # unique violation: a race with OpenREM's own imports
    "23503": Reason.DATABASE_HICCUP,  # foreign key violation: the same
    "22001": Reason.BAD_VALUE,  # too long
    "22003": Reason.BAD_VALUE,  # out of range
    "22021": Reason.BAD_VALUE,  # bytes that are no text
}
_CLASS_CONNECTION = ("08", "57P")  # connection exceptions; shutdown, crash, can't connect now
_WORDS = {
    "25006": "it is read-only",
    "42P01": "it lacks a table",
    "42703": "it lacks a column",
    "42501": "it lacks a right",
    "53100": "its disk is full",
    "53300": "too many connections",
    "58030": "its disk fails",
}

# What worker.py raises itself.
_OURS = {
    "ToolsMissing": Reason.TOOLS_MISSING,
    "NoReport": Reason.NO_DOSE_SCREEN,
    "SeveralScreens": Reason.SEVERAL_DOSE_SCREENS,
    "NoRoom": Reason.DISK_FULL,
}

_CONNECTION_ERRORS = frozenset({"OperationalError", "InterfaceError"})


def reason_of(failure: Failure) -> Reason:
    """The reason for a failure that the worker tells of."""
    if failure.out_of_memory:  # then it could not even ask after the database
        return Reason.OUT_OF_MEMORY
    if not failure.database_alive:
        return Reason.DATABASE_UNREACHABLE
    if failure.sqlstate in _BY_STATE:
        return _BY_STATE[failure.sqlstate]
    if failure.connection_lost or failure.sqlstate.startswith(_CLASS_CONNECTION):
        return Reason.DATABASE_UNREACHABLE  # it was, though by now it may answer again
    return _OURS.get(failure.exception.rpartition(".")[2]) or _by_type(failure)


def words_of(sqlstate: str) -> str:
    """What a SQLSTATE means for the database, where it is the database's fault."""
    return _WORDS.get(sqlstate, "")


def _by_type(failure: Failure) -> Reason:
    families = {name.rpartition(".")[2] for name in failure.families}
    if failure.model == "UniqueEquipmentNames" and "MultipleObjectsReturned" in families:
        return Reason.DUPLICATE_SCANNER
    if failure.model == "PatientIDSettings":
        return Reason.SETTINGS_MISSING
    if _CONNECTION_ERRORS & families:
        # With a SQLSTATE it was an answer, without one there was none.
        return Reason.DATABASE_HICCUP if failure.sqlstate else Reason.DATABASE_UNREACHABLE
    if "DataError" in families:
        return Reason.BAD_VALUE
    if "FileNotFoundError" in families:
        return Reason.CHANGED
    return Reason.IMPORT_FAILED
