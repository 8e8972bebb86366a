"""What a row of the ledger stands for."""

import json
from collections.abc import Sequence
from dataclasses import fields

from ingest.errors import Reason
from ingest.model import Header, Importer, Job, Snapshot, State

COLUMNS = (
    "id, drop_name, path, device, inode, size, mtime_ns, ctime_ns, state, header, importer, "
    "claim, attempts, deaths, not_before, reason, detail, updated"
)


def job_of(row: Sequence[object], path: bytes | None = None) -> Job:
    """The job of a row of `COLUMNS`; one whose path is forgotten has this path, if any."""
    (job_id, drop, own_path, device, inode, size, mtime_ns, ctime_ns, state, header, importer) = (
        row[:11]
    )
    claim, attempts, deaths, not_before, reason, detail, since = row[11:]
    return Job(
        id=number(job_id),
        drop=str(drop),
        path=own_path if isinstance(own_path, bytes) else path or b"",
        snapshot=Snapshot(
            device=number(device),
            inode=number(inode),
            size=number(size),
            mtime_ns=number(mtime_ns),
            ctime_ns=number(ctime_ns),
        ),
        state=State[str(state)],
        header=_header(header),
        importer=Importer(importer) if importer else None,
        claim=str(claim),
        attempts=number(attempts),
        deaths=number(deaths),
        not_before=float(str(not_before)),
        since=float(str(since)),
        reason=reason_of(reason),
        detail=str(detail),
    )


def number(value: object) -> int:
    """Also where it had no room in SQLite's integers."""
    assert isinstance(value, int | bytes)  # noqa: S101 - the schema says so
    return int(value)


def text_of(header: Header) -> str:
    """As it is kept; `dataclasses.asdict` would copy each value deeply."""
    return json.dumps({field.name: getattr(header, field.name) for field in fields(header)})


def _header(value: object) -> Header | None:
    if not isinstance(value, str):
        return None
    fields = json.loads(value)
    fields["image_type"] = tuple(fields["image_type"])
    return Header(**fields)


def reason_of(code: object) -> Reason | None:
    """The reason with this code, if any."""
    return Reason.from_code(code) if isinstance(code, str) else None
