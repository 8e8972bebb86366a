"""What a new configuration is to say: drop folders and rules, and what must be told of them."""

import os
from dataclasses import dataclass

from ingest.findings import Finding
from ingest.model import Importer


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDrop:
    """A ``[[drop]]`` to be written."""

    path: str
    expect: tuple[Importer, ...] = ()
    why: str = ""  # where it comes from; a comment


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRule:
    """A ``[[rule]]`` to be written."""

    name: str
    match: tuple[tuple[str, tuple[str, ...]], ...]  # subjects, each with its patterns
    then: str
    into: str = ""
    zip: bool = False
    why: str = ""  # a comment


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What was taken over from an earlier set-up."""

    python: str = ""  # OpenREM's interpreter, if it names one
    drops: tuple[NewDrop, ...] = ()
    rules: tuple[NewRule, ...] = ()
    lost: tuple[Finding, ...] = ()  # what could not be taken over, or must be filled in
    told: tuple[Finding, ...] = ()  # what is good to know
    received: tuple[str, ...] = ()  # the modalities that are let in; empty if that isn't known


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that a new configuration says."""

    state_dir: str
    python: str
    python_note: str  # a comment
    drops: tuple[NewDrop, ...]
    rules: tuple[NewRule, ...]
    quarantine: str
    notes: tuple[str, ...] = ()  # for the top of the file, as comments


BY_MODALITY = {  # what objects of a modality most likely are
    "MG": Importer.MG,
    **dict.fromkeys(("DX", "CR", "PX"), Importer.DX),
    **dict.fromkeys(("NM", "PT"), Importer.NM),
    "SR": Importer.RDSR,
}
_USUAL = {
    "mammo": (Importer.MG,),
    "dx": (Importer.DX,),
    "sr": (Importer.RDSR, Importer.CTPHILIPS),
    "nm": (Importer.NM,),
}


def usual_drops(folder: str) -> tuple[NewDrop, ...]:
    """The drop folders of a set-up that begins with nothing."""
    return tuple(
        NewDrop(path=os.path.join(folder, name), expect=expect) for name, expect in _USUAL.items()
    )


def usual_drop(folder: str, importers: tuple[Importer, ...]) -> NewDrop:
    """The one of them in which such objects belong."""
    for drop in usual_drops(folder):
        if set(importers) & set(drop.expect):
            return drop
    return NewDrop(path=os.path.join(folder, "other"))


def is_path_here(path: str) -> bool:
    """Is it the whole path of something on Linux? Those of Windows are not."""
    return path.startswith("/") and path.isprintable()
