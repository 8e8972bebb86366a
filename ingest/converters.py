"""What Conquest's import converters save, said in drop folders of ours."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ingest import routing
from ingest.dicom_ini import Converter, DicomIni
from ingest.findings import Finding, warning
from ingest.model import Header, Import, Importer
from ingest.setup import BY_MODALITY, Carried, NewDrop, is_path_here, usual_drop

_REPORTS = (routing.XRAY_DOSE_SR, routing.ENHANCED_SR, routing.RADIOPHARMACEUTICAL_DOSE_SR)
_COMMAND = re.compile(r"[^;{}]+")
_CALLS = re.compile(r"\s*system\b|.*\b(?:os\.execute|io\.popen)\b", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A converter that must not stay as it is, and the drop folder in its place."""

    converter: Converter
    drop: NewDrop


@dataclass(frozen=True, slots=True, kw_only=True)
class FromConquest:
    """What was taken over from a dicom.ini."""

    carried: Carried
    replaced: tuple[Replaced, ...]


def carry(ini: DicomIni, *, folder: str) -> FromConquest:
    """A drop folder for each folder that a converter saves into.

    Args:
        ini: what was read.
        folder: where drop folders are made that stand for those of another machine.
    """
    drops: dict[str, NewDrop] = {}
    lost: list[Finding] = []
    replaced: list[Replaced] = []
    for converter in ini.converters:
        calls = tuple(_calls(converter))
        is_import = any("openrem" in call.lower() for call in calls)
        if calls and not is_import:
            lost.append(_of_calls(converter, calls))
        if not (converter.folder or converter.file or is_import):
            continue
        drop, problem = _drop_of(converter, folder)
        known = drops.get(drop.path)
        drops[drop.path] = drop if known is None else _together(known, drop)
        if problem is not None:
            lost.append(problem)
        if is_import:
            lost.append(_of_calls(converter, calls))
        if problem is not None or is_import:
            replaced.append(Replaced(converter=converter, drop=drop))
    carried = Carried(drops=tuple(drops.values()), lost=tuple(lost))
    return FromConquest(carried=carried, replaced=tuple(replaced))


def _drop_of(converter: Converter, folder: str) -> tuple[NewDrop, Finding | None]:
    """The drop folder that it fills; and what is wrong if that is not the one that it names."""
    importers = _importers_of(converter)
    if is_path_here(converter.folder) and "%" not in converter.folder:
        path = os.path.normpath(converter.folder)
        why = f"ImportConverter{converter.number} of dicom.ini saves here."
        return NewDrop(path=path, expect=importers, why=why), None
    drop = usual_drop(folder, importers)
    why = f"Stands for the folder of ImportConverter{converter.number} of dicom.ini."
    saved = "/".join(filter(None, (converter.folder, converter.file)))
    if not saved:
        what, reason = "saves nothing", "there is no folder to take over"
    elif "%" in converter.folder:
        what = f"saves into a folder that differs from object to object: {saved}"
        reason = "emptied sub-folders of a drop folder are removed, and Conquest makes none"
    else:
        what = f"saves to {saved}"
        reason = "that is no whole path on this machine"
    return NewDrop(path=drop.path, expect=importers, why=why), warning(
        f"{converter.where} {what}",
        f"{reason}; {drop.path} stands for it",
        "fill in the path of its [[drop]] as Conquest and this machine see it, or use the lines "
        "below",
    )


def _importers_of(converter: Converter) -> tuple[Importer, ...]:
    """What the objects are, by the SOP class that it asks for, else by the modality."""
    uid = converter.sop_class
    if uid in _REPORTS:
        return (Importer.RDSR,)
    if uid == routing.SECONDARY_CAPTURE:
        return (Importer.MG,) if converter.modality == "MG" else (Importer.CTPHILIPS,)
    if uid:
        header = Header(sop_class_uid=uid, sop_instance_uid="1", study_uid="1", study_time="00")
        decision = routing.route(header)
        return (decision.importer,) if isinstance(decision, Import) else ()
    if "0008,0016" in converter.text:
        return ()  # it may well ask for all but a class
    importer = BY_MODALITY.get((converter.modality or "").upper())
    return (importer,) if importer is not None else ()


def _together(first: NewDrop, second: NewDrop) -> NewDrop:
    expect = tuple(dict.fromkeys((*first.expect, *second.expect)))
    why = " ".join(dict.fromkeys((first.why, second.why)))
    return NewDrop(path=first.path, expect=expect, why=why)


def calls_in(ini: DicomIni) -> Iterator[Finding]:
    """The converters that call programs: OpenREM's import would be called twice."""
    for converter in ini.converters:
        if calls := tuple(_calls(converter)):
            yield _of_calls(converter, calls)


def _of_calls(converter: Converter, calls: tuple[str, ...]) -> Finding:
    is_import = any("openrem" in call.lower() for call in calls)
    return (_twice if is_import else _maybe_twice)(converter, calls)


def _calls(converter: Converter) -> Iterator[str]:
    for command in _COMMAND.findall(converter.text):
        if _CALLS.match(command):
            yield command.strip()


def _twice(converter: Converter, calls: tuple[str, ...]) -> Finding:
    return warning(
        f"{converter.where} calls OpenREM's import itself: {'; '.join(calls)}",
        "each object would be imported twice: by that call, and by openrem-ingest; two imports "
        "at once can spoil a study for good",
        "take the call out of dicom.ini before openrem-ingest runs: use the lines below",
    )


def _maybe_twice(converter: Converter, calls: tuple[str, ...]) -> Finding:
    """Of a batch file nobody knows by its name what it does."""
    return warning(
        f"{converter.where} calls a program: {'; '.join(calls)}",
        "if it is one that calls OpenREM's import, each object would be imported twice; and "
        "openrem-ingest may take the file away while it runs",
        "look into it: if that program calls OpenREM's import, take the call out of dicom.ini "
        "before openrem-ingest runs; else have it work on a copy of the file",
    )
