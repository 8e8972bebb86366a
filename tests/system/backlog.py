"""A mixed backlog for those who disturb the service, and what must never become of it."""

import os
from collections.abc import Mapping
from pathlib import Path

from tests.system.harness import Ground, image, new_uid, report, sop_uid, study_uid

# Of every kind and importer, but none that OpenREM itself can't import, and at most one of a
# study (which of two siblings comes first may decide what OpenREM makes of both).
CORPUS = [
    "CT-ESR-GE_Optima.dcm",
    "CT-RDSR-GEPixelMed.dcm",
    "CT-RDSR-Philips_BigBore4DCT.dcm",
    "CT-RDSR-Siemens_Flash-TAP-SS.dcm",
    "CT-SC-Philips_Brilliance16P.dcm",
    "DX-Im-GE_XR220-1.dcm",
    "DX-RDSR-Canon_CXDI.dcm",
    "MG-Im-Hologic-PropProj.dcm",
    "MG-RDSR-Hologic_2D.dcm",
    "NM-RRDSR-Siemens.dcm",
    "PX-Im-NewTom_Go.dcm",
    "RF-RDSR-GE.dcm",
    "RF-RDSR-Siemens-Zee.dcm",
]
_BY_STUDY = "CT-SC"  # OpenREM keeps no SOP Instance UID of what Philips captures

Objects = Mapping[str, bytes]  # by their places: drop folder, and path below it


def mixed(corpus: Mapping[str, Path]) -> dict[str, bytes]:
    """Objects of all kinds."""
    made = {f"sr/corpus/{name}": corpus[name].read_bytes() for name in CORPUS}
    studies = [new_uid() for _ in range(12)]
    for number in range(48):
        made[f"dx/a {number % 4}/{number}.dcm"] = image(study=studies[number % 12])
    for number in range(6):
        made[f"mammo/{number}.dcm"] = image("mammo")
        made[f"sr/{number}.dcm"] = report("ct")
    made["sr/fluoroscopy.dcm"] = report("fluoroscopy")
    return made


def drop(ground: Ground, objects: Objects) -> None:
    """Put them into the drop folders."""
    for place, content in objects.items():
        name, _, file = place.partition("/")
        ground.put(name, file, content)


def lost(ground: Ground, objects: Objects) -> list[str]:
    """Those that are in no drop folder (nor claim), nor in quarantine, nor in OpenREM."""
    there = _places(ground)
    missing = [place for place in objects if place not in there]
    recorded = ground.recorded() if missing else set()
    return [place for place in missing if _uid(place, objects[place]) not in recorded]


def _uid(place: str, content: bytes) -> str:
    return study_uid(content) if _BY_STUDY in place else sop_uid(content)


def _places(ground: Ground) -> set[str]:
    """All places whose files are still with us, whether set aside or refused."""
    found = {os.fsdecode(name) for name in ground.quarantined_files()}
    for drop_name, names in ground.files().items():
        for name in names:
            parts = os.fsdecode(name).split("/")
            found.add("/".join([drop_name, *(parts[2:] if parts[0] == ".ingest" else parts)]))
    return found
