"""Which objects are measured: real ones of all kinds, multiplied."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest import dicom, rules
from ingest.model import Import, Importer
from tests.bench.multiply import Stencil, study_of_images, study_of_one

IMAGES_OF_A_STUDY = 4
# Each takes seconds, all others together no longer than they do.
LARGE = frozenset(
    {
        "RF-Pat-Orientation-Modifier-Missing.dcm",
        "RF-RDSR-Canon-Alphenix-rotational.dcm",
        "RF-RDSR-Philips_Azurion.dcm",
    }
)
# Its further images fail in OpenREM, which wants a date of acquisition then.
_NO_STUDY_OF_IMAGES = "DX-Im-Date-Missing.dcm"
_WARMING = frozenset(
    {"CT-RDSR-Philips_BigBore4DCT.dcm", "DX-Im-SiemensMultix.dcm", "MG-Im-GE-SenDS-scaled.dcm"}
)
_FIRST_WARMING = 900_000  # their numbers are apart from those that are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A stencil and who imports its copies."""

    importer: Importer
    stencil: Stencil


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Objects that are fed together."""

    name: str
    what: str
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A file, and who imports it."""

    importer: Importer
    path: Path


def small(corpus: Iterable[Path]) -> Mix:
    """Make studies of all objects but the three that take longest."""
    return Mix(
        name="small",
        what="all objects of OpenREM's own tests but the three slowest, a study each",
        patterns=_alone(path for path in corpus if path.name not in LARGE),
    )


def large(corpus: Iterable[Path]) -> Mix:
    """Make studies of those three."""
    return Mix(
        name="large",
        what="the three slowest dose reports (0.5 to 3.3 MB)",
        patterns=_alone(path for path in corpus if path.name in LARGE),
    )


def images(corpus: Iterable[Path]) -> Mix:
    """Make studies of four images each of all DX and mammography images."""
    return Mix(
        name="images",
        what=f"DX and mammography studies of {IMAGES_OF_A_STUDY} images",
        patterns=tuple(
            Pattern(importer=importer, stencil=stencil)
            for path in corpus
            if (importer := importer_of(path)) in {Importer.DX, Importer.MG}
            and path.name != _NO_STUDY_OF_IMAGES
            for stencil in study_of_images(path, IMAGES_OF_A_STUDY)
        ),
    )


def warming(corpus: Iterable[Path]) -> Mix:
    """Choose what is imported before a clock starts: all programs are loaded then."""
    return Mix(
        name="warming",
        what="a few",
        patterns=_alone(path for path in corpus if path.name in _WARMING),
    )


def lay_out(mix: Mix, folder: Path, studies: int) -> list[Work]:
    """Write so many copies of each."""
    folder.mkdir(parents=True)
    first = _FIRST_WARMING if mix.name == "warming" else 0
    work: list[Work] = []
    for number in range(first, first + studies):
        for pattern in mix.patterns:
            path = folder / f"{mix.name}-{len(work):06d}.dcm"
            path.write_bytes(pattern.stencil.copy(number))
            work.append(Work(importer=pattern.importer, path=path))
    return work


def importer_of(path: Path) -> Importer | None:
    """The importer that our routing chooses, if any."""
    header = dicom.look(path).header
    decision = rules.decide(header) if header else None
    return decision.importer if isinstance(decision, Import) else None


def _alone(paths: Iterable[Path]) -> tuple[Pattern, ...]:
    found: Sequence[tuple[Importer | None, Path]] = [(importer_of(path), path) for path in paths]
    return tuple(
        Pattern(importer=importer, stencil=study_of_one(path))
        for importer, path in found
        if importer is not None
    )
