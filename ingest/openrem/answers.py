"""Reads the lines that OpenREM's process answers with: into what they should be, or not at all."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from ingest.model import FileContent, SizesOfOne, StudyHeld


class NoAnswer(Exception):
    """The line is not an answer to what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What worker.py's ``failure`` made of an exception."""

    exception: str
    families: tuple[str, ...]  # its type and those above it
    sqlstate: str = ""
    model: str = ""
    at: str = ""
    text: str = ""  # empty where a file is involved: it may quote a patient's values
    database_alive: bool = True
    connection_lost: bool = False  # in mid-import
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Answer: it has loaded OpenREM."""

    id: int
    ok: Literal[True]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotOk:
    """Answer: what was asked for failed."""

    id: int
    ok: Literal[False]
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """Answer to ``hello``."""

    id: int
    ok: Literal[True]
    openrem: str
    vendor: str
    database: str
    server: str = ""  # this and the following: of PostgreSQL only
    read_only: bool = False
    patient_id_settings: int = 0
    duplicate_scanners: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Answer to ``recorded``: for each that was asked for."""

    id: int
    ok: Literal[True]
    recorded: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFolder:
    """A folder that OpenREM itself writes to."""

    name: str  # of its setting
    path: str
    exists: bool
    writable: bool  # by the user that we run as


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """Where OpenREM looks for Redis."""

    place: str
    trouble: str  # the type of the exception; empty if it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """Answer to ``doctor``."""

    id: int
    ok: Literal[True]
    openrem: str
    python: str
    django: str
    vendor: str
    database: str
    folders: tuple[OwnFolder, ...]
    redis: Redis
    no_tools: str = ""  # what is missing for Toshiba CT images
    server: str = ""  # this and the following: of PostgreSQL only
    read_only: bool = False
    durable: bool = True  # does it survive a power cut?
    clock_ahead_s: float = 0.0
    lacking: tuple[str, ...] = ()  # tables and columns that OpenREM's code has
    closed: tuple[str, ...] = ()  # tables that its user may not read and write
    patient_id_settings: int = 1  # this and the following: where all tables are there
    duplicate_scanners: int = 0
    studies: int = 0
    finds_studies: bool = True  # has it an index of their UIDs?
    delete_settings: int = 1
    deletes: tuple[str, ...] = ()  # what is switched on of them
    skin_maps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Answer to ``import`` and ``prove``."""

    id: int
    ok: Literal[True]
    content: FileContent
    studies: tuple[StudyHeld, ...]
    already: bool = True
    refused: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """Answer to ``sizes``."""

    id: int
    ok: Literal[True]
    of: tuple[SizesOfOne, ...]
    already: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What OpenREM's reader says that an image is."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHeldOf:
    """Answer to ``import-study``."""

    id: int
    ok: Literal[True]
    images: dict[str, Image]  # by name
    event_uids: tuple[str | None, ...]  # of the reports that were made of them
    before: frozenset[str]  # images that were recorded before
    recorded: tuple[frozenset[str], ...]  # images that are, for each of the studies
    studies: tuple[StudyHeld, ...]
    warnings: tuple[str, ...] = ()


Answer = TypeVar("Answer", Ready, Greeted, Examined, Held, Recorded, Sized, StudyHeldOf)

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    Ready: TypeAdapter(Ready | NotOk),
    Greeted: TypeAdapter(Greeted | NotOk),
    Examined: TypeAdapter(Examined | NotOk),
    Held: TypeAdapter(Held | NotOk),
    Recorded: TypeAdapter(Recorded | NotOk),
    Sized: TypeAdapter(Sized | NotOk),
    StudyHeldOf: TypeAdapter(StudyHeldOf | NotOk),
}


def read(line: bytes, kind: type[Answer], number: int) -> Answer | NotOk:
    """The answer of this kind to the request of this number. `NoAnswer` if it is none."""
    try:
        answer: Answer | NotOk = _ADAPTERS[kind].validate_json(line, strict=True)
    except ValidationError:  # it quotes what it read, so nothing of it is told
        raise NoAnswer("what it said is no answer") from None
    if answer.id != number:
        raise NoAnswer("it answered another question")
    return answer
