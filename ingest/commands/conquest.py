"""`conquest`: the dicom.ini lines that have Conquest fill the configured drop folders.

The forms printed are those that were tested with Conquest 1.5.0e; nearly every other way to
write them loses objects in silence (an ``ifequal`` without its quotes or braces, a ``save to``
that comes last, a number above 98).
"""

import os
from collections.abc import Collection
from dataclasses import dataclass

import click

from ingest.config import Drop, Settings
from ingest.dicom_ini import NUMBER_MAX, VALUE_MAX
from ingest.errors import ConfigError
from ingest.model import Importer

_STORAGE = "1.2.840.10008.5.1.4.1.1."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """What a converter fires on: the modality, the SOP class, or both."""

    modality: str = ""
    sop_class: str = ""


_PLAIN = {
    Importer.MG: (_Match(modality="MG"),),
    Importer.DX: (_Match(modality="DX"), _Match(modality="CR"), _Match(modality="PX")),
    Importer.NM: (_Match(modality="NM"), _Match(modality="PT")),
}
# By SOP class throughout: the form that was tested, and what the importers go by.
_SAFE = {
    Importer.MG: (_Match(sop_class="1.2"), _Match(sop_class="1.2.1")),
    Importer.DX: (_Match(sop_class="1.1"), _Match(sop_class="1.1.1"), _Match(sop_class="1")),
    Importer.NM: (_Match(sop_class="20"), _Match(sop_class="128")),
}
_BOTH = {
    Importer.RDSR: tuple(_Match(sop_class=uid) for uid in ("88.67", "88.22", "88.68")),
    Importer.CTPHILIPS: (_Match(modality="CT", sop_class="7"),),
    Importer.CTTOSHIBA: (_Match(modality="CT"),),
}
_BY_NAME = {  # the folder names of OpenREM's documentation
    "mammo": (Importer.MG,),
    "mg": (Importer.MG,),
    "dx": (Importer.DX,),
    "sr": (Importer.RDSR,),
    "rdsr": (Importer.RDSR,),
    "nm": (Importer.NM,),
    "pet": (Importer.NM,),
}
_BREAKS_A_LINE = set("\"'\\;{}%\n\r")


def conquest(settings: Settings, *, plain: bool) -> int:
    """Print the lines; returns the exit code."""
    click.echo("# Into section [sscscp] of Conquest's dicom.ini, each from the first column.")
    click.echo("# Changes take effect while it runs. Number on from converters you already have.")
    for line in lines(settings.drop, plain=plain):
        click.echo(line)
    return 0


def lines(drops: tuple[Drop, ...], *, plain: bool, taken: Collection[int] = ()) -> list[str]:
    """The lines for these folders.

    Args:
        drops: the configured folders.
        plain: save under the final name at once. The default writes beside and renames, so
            that the sender hears of a missing folder.
        taken: the numbers of other converters.

    Raises:
        ConfigError: a folder's path can't be written in a dicom.ini, or the numbers are out.
    """
    result: list[str] = []
    free = (number for number in range(1, NUMBER_MAX + 1) if number not in taken)
    for drop in drops:
        if drop.kind == "ptsizecsv":  # Conquest has no tables
            continue
        _check(str(drop.path))
        importers = drop.expect or _BY_NAME.get(drop.name.lower(), ())
        if not importers:
            result.append(
                f'# {drop.path}: set expect = ["mg"] (or dx, rdsr, nm, ctphilips) in its [[drop]] '
                "to get lines for it"
            )
        for importer in importers:
            for match in (_BOTH | (_PLAIN if plain else _SAFE))[importer]:
                number = next(free, None)
                if number is None:
                    raise ConfigError(
                        f"drop: too many for Conquest, which runs no converter above number "
                        f"{NUMBER_MAX}. Next: take out converters that are not needed"
                    )
                result += _converter(number, str(drop.path), match, plain=plain)
    return result


def _check(folder: str) -> None:
    if bad := _BREAKS_A_LINE & set(folder):
        raise ConfigError(
            f"drop.path: {folder!r} has {' '.join(sorted(map(repr, bad)))}, which Conquest can't "
            "take. Next: rename the folder"
        )


def _converter(number: int, folder: str, match: _Match, *, plain: bool) -> list[str]:
    if plain:
        action = f"save to {folder}/%o.dcm; destroy"
    else:
        action = (
            f"save to {folder}/%o.part; lua \"if os.rename('{folder}/%o.part','{folder}/%o.dcm') "
            'then destroy() else reject() end";'
        )
    if match.sop_class:
        action = f'ifequal "%V0008,0016","{_STORAGE}{match.sop_class}"; {{{action}}}'
    if len(os.fsencode(action)) > VALUE_MAX:
        raise ConfigError(f"drop.path: {folder} is too long for Conquest. Next: a shorter path")
    line = f"ImportConverter{number} = {action}"
    return [f"ImportModality{number} = {match.modality}", line] if match.modality else [line]
