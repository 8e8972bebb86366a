"""The judgement behind the promise: does OpenREM provably hold this object?

Exit codes, return values, BackgroundTask rows and a recorded SOP Instance UID prove nothing:
OpenREM records the UID with one of its first writes, and doses with its last. What does prove
an object differs by importer; each function below names what was measured to hold on every
complete import and at no unfinished stage of it.

This is the only module that makes a ``Proof``, and nothing is deleted without one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose

from ingest.errors import Reason
from ingest.model import (
    Doses,
    Facts,
    Header,
    Importer,
    Shortfall,
    SizesFacts,
    SizesOfOne,
    SizesWanted,
    Snapshot,
    StudyHeld,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NM_IMAGE = "1.2.840.10008.5.1.4.1.1.20"
PET_IMAGE = "1.2.840.10008.5.1.4.1.1.128"

SAME_SHARE = 0.01  # of a dose; a dose report may round it
LEAST_DOSE = 1e-6  # OpenREM keeps 8 decimals
LEAST_SIZE = 1e-5  # cm or kg; the same, and a row has 4 at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """OpenREM holds this version of this object, or of this table, completely."""

    snapshot: Snapshot  # of the very file that was read
    sop_instance_uid: str | None  # none of a table of sizes
    study_uid: str | None
    already: bool  # it was held before this import
    evidence: str
    rows: int | None = None  # of a table: those that are held,
    unmatched: int | None = None  # and those whose studies OpenREM does not have


def verify(
    snapshot: Snapshot, header: Header, importer: Importer, facts: Facts
) -> Proof | Shortfall:
    """Judge what OpenREM holds of an object.

    Args:
        snapshot: the version of the file that was handed to OpenREM.
        header: what we read of it ourselves.
        importer: the importer that had it.
        facts: what OpenREM's reader found in the file and what its database holds.

    Returns:
        A `Proof`, or the `Shortfall` that stands in its way.
    """
    if facts.refused:
        return Shortfall(reason=Reason.REFUSED)
    content = facts.content
    if (content.sop_instance_uid, content.study_uid, content.sop_class_uid) != (
        header.sop_instance_uid,
        header.study_uid,
        header.sop_class_uid,
    ):
        return Shortfall(reason=Reason.CHANGED, detail="OpenREM read another object than we did")
    evidence = _evidence(importer, facts)
    if isinstance(evidence, Shortfall):
        return evidence
    return Proof(
        snapshot=snapshot,
        sop_instance_uid=header.sop_instance_uid,
        study_uid=header.study_uid,
        already=facts.already,
        evidence=evidence,
    )


def _evidence(importer: Importer, facts: Facts) -> str | Shortfall:
    match importer:
        case Importer.RDSR:
            return _dose_report(facts)
        case Importer.MG | Importer.DX:
            return _projection_image(facts)
        case Importer.NM:
            return _nuclear_medicine_image(facts)
        case Importer.CTPHILIPS:
            return _philips_dose_info(facts)
        case Importer.PTSIZECSV:
            return Shortfall(reason=Reason.NOT_HELD, detail="its importer is for no object")
        case Importer.CTTOSHIBA:
            return _image_of_a_study(facts)


def _dose_report(facts: Facts) -> str | Shortfall:
    """Every event of the report is stored, in studies that were written to the end.

    An event may lie in a sibling study row of the same Study Instance UID: OpenREM makes a
    second row when two reports of one study differ, and records a subset with the row that
    has its events (OpenREM ``rdsr._handle_study_already_existing``). That row, too, must be
    finished: an event's UID is written before its doses.
    """
    finished = [study for study in facts.studies if _is_finished(study)]
    if not any(study.has_sop for study in facts.studies):
        return _short(facts, "not recorded")
    if not any(study.has_sop for study in finished):
        return _short(facts, "the study was not written to its end")
    stored = Counter(uid for study in finished for uid in study.event_uids)
    if missing := Counter(facts.content.event_uids) - stored:
        return _short(
            facts, f"{missing.total()} of {len(facts.content.event_uids)} events are missing"
        )
    if not facts.content.event_uids and not _is_alone(finished):
        return Shortfall(
            reason=Reason.NOT_HELD,
            detail="it reports no events, and OpenREM holds other objects of this study",
        )
    if None in stored and None in facts.content.event_uids and not _is_alone(finished):
        return Shortfall(
            reason=Reason.NOT_HELD,
            detail="its events have no UIDs, and OpenREM holds other objects of this study",
        )
    events = len(facts.content.event_uids)
    return f"all its {events} events are stored" if events else "stored; it reports no events"


def _is_alone(finished: Sequence[StudyHeld]) -> bool:
    """Is this report all that its row was made of?

    Events without a UID can't be told apart. OpenREM takes a second report with such events, or
    with none, for a part of the first, whatever it says, and stores nothing of it.
    """
    return any(study.has_sop and study.objects == 1 for study in finished)


def _projection_image(facts: Facts) -> str | Shortfall:
    """The image's event is stored, or that of its processing/presentation twin.

    OpenREM takes an image whose exposure began when a stored one's did for the twin of that
    one, and stores no second event (OpenREM ``extract_common.get_study_check_dup``); not so
    for mammograms sent as secondary captures. And it ignores an image whose UID it has.
    """
    uid = facts.content.sop_instance_uid
    is_other = False
    for study in facts.studies:
        if not (study.has_sop and _is_finished(study)):
            continue
        if uid in study.event_uids:
            if not (facts.already and study.has_other_exposure):
                return "its event is stored"
            is_other = True
            continue
        if study.has_event_at_same_time and facts.content.sop_class_uid != SECONDARY_CAPTURE:
            return "the event of its processing/presentation twin is stored"
    if is_other:
        return Shortfall(
            reason=Reason.NOT_HELD, detail="OpenREM holds another exposure under its UID"
        )
    return _short(facts, "no event of this image is stored")


def _nuclear_medicine_image(facts: Facts) -> str | Shortfall:
    """Weak by itself (OpenREM counts no events here): it leans on the one transaction.

    Of a second administration OpenREM stores only what the first left empty (OpenREM
    ``nm_image._try_set_value``).

    A user's rule may send it anything. OpenREM passes over what is neither, without a word, and
    what it holds of that (of a dose report, say) tells nothing of its being complete.
    """
    if facts.content.sop_class_uid not in (NM_IMAGE, PET_IMAGE):
        return Shortfall(reason=Reason.REFUSED)
    pet = facts.content.sop_class_uid == PET_IMAGE
    is_other = False
    for study in facts.studies:
        if (
            study.has_sop
            and study.patient_rows
            and study.has_radiopharmaceutical_dose
            and (study.has_pet_series or not pet)
        ):
            if not study.has_other_administration:
                return "the PET series is stored" if pet else "the administration is stored"
            is_other = True
    if is_other:
        return Shortfall(
            reason=Reason.NOT_HELD, detail="OpenREM holds another administration of this study"
        )
    return _short(facts, "its administration or series is not stored")


def _philips_dose_info(facts: Facts) -> str | Shortfall:
    """OpenREM records no SOP Instance UID for these: the exposures must all be there.

    It ignores one of a study that it has, whatever its exposures are: they are told by their
    doses.
    """
    exposures = facts.content.exposures
    for study in facts.studies:
        if (
            study.has_ct_dose
            and _is_finished(study)
            and study.event_rows == len(exposures)
            and _are_the_same(exposures, study.ct_doses)
        ):
            return f"all its {len(exposures)} exposures are stored"
    if any(_is_finished(study) for study in facts.studies):
        return Shortfall(reason=Reason.OTHER_SOURCE)
    return _short(facts, f"not all of its {len(exposures)} exposures are stored")


def _image_of_a_study(facts: Facts) -> str | Shortfall:
    """A report was made of the study's images, all of it is stored, and the image is recorded.

    Our worker records the images in the transaction that imports the report, and nobody else
    does: one that is recorded has been a part of what the report was made of.
    """
    finished = [study for study in facts.studies if _is_finished(study)]
    for study in finished:
        if not (study.has_sop and study.has_ct_dose and study.event_rows):
            continue
        missing = Counter(facts.content.event_uids) - Counter(study.event_uids)
        if not missing and (facts.already or facts.content.event_uids):
            return f"recorded with its study, all of whose {study.event_rows} events are stored"
    if any(study.has_sop for study in facts.studies):
        return _short(facts, "its study was not written to its end")
    if any(study.has_ct_dose and study.is_from_dose_screen for study in facts.studies):
        return Shortfall(reason=Reason.LATE_IMAGE)
    if any(study.has_ct_dose for study in facts.studies):
        return Shortfall(reason=Reason.OTHER_SOURCE)
    return _short(facts, "it is not recorded")


def _are_the_same(exposures: Sequence[Doses], stored: Sequence[Doses]) -> bool:
    """Do they agree, in whatever order, in what both sides tell?"""
    if len(exposures) != len(stored):
        return False
    pairs = zip(sorted(exposures, key=_in_order), sorted(stored, key=_in_order), strict=True)
    return all(
        one is None or other is None or isclose(one, other, rel_tol=SAME_SHARE, abs_tol=LEAST_DOSE)
        for pair in pairs
        for one, other in zip(*pair, strict=True)
    )


def _in_order(doses: Doses) -> tuple[float, float]:
    """By the DLP, then the CTDIvol; the decimals that OpenREM cuts off don't count."""
    ctdivol, dlp = doses
    return round(dlp or 0.0, 6), round(ctdivol or 0.0, 6)


def _is_finished(study: StudyHeld) -> bool:
    """OpenREM writes the count of events and the patient's row last."""
    return study.patient_rows > 0 and study.number_of_events == study.event_rows


def _short(facts: Facts, detail: str) -> Shortfall:
    """Held in part if OpenREM knew the object before we came, else not held at all."""
    reason = Reason.HELD_IN_PART if facts.already else Reason.NOT_HELD
    return Shortfall(reason=reason, detail=detail)


def verify_sizes(
    snapshot: Snapshot, rows: int, wanted: SizesWanted, facts: SizesFacts
) -> Proof | Shortfall:
    """Judge what OpenREM holds of a table of heights and weights.

    Every row's sizes must be those of each study with its id. Sizes that were there before may
    stay, unless the user wants them overwritten. Of rows with one id OpenREM's importer takes the
    first; where it overwrites, the last.

    Args:
        snapshot: the version of the file that was read.
        rows: how many rows with sizes we read ourselves.
        wanted: what the user wants done.
        facts: what the worker read, and what OpenREM's database holds.
    """
    if sum(one.rows for one in facts.of) != rows:
        return Shortfall(reason=Reason.CHANGED, detail="OpenREM read another table than we did")
    wrong = sum(one.rows for one in facts.of if not _has_its_sizes(one, wanted))
    if wrong:
        return Shortfall(reason=Reason.NOT_HELD, detail=f"{_rows(wrong)} of {rows} not stored")
    unmatched = sum(one.rows for one in facts.of if not one.studies)
    told = f"{_rows(rows - unmatched)} held"
    if unmatched:
        told += f", {unmatched} without a study in OpenREM"
    if unmatched and wanted.wait_s is not None:
        return Shortfall(reason=Reason.UNMATCHED_ROWS, detail=told)
    if unmatched and unmatched == rows:
        return Shortfall(reason=Reason.NO_ROW_MATCHES, detail=told)
    return Proof(
        snapshot=snapshot,
        sop_instance_uid=None,
        study_uid=None,
        already=facts.already,
        evidence=told,
        rows=rows - unmatched,
        unmatched=unmatched,
    )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _has_its_sizes(one: SizesOfOne, wanted: SizesWanted) -> bool:
    """Does each study have the sizes? One that went after the import has lost them."""
    if one.found > len(one.studies):
        return False
    return all(
        _is_the_size(values, before[which], now[which], overwrite=wanted.overwrite)
        for before, now in one.studies
        for which, values in enumerate((one.heights, one.weights))
    )


def _is_the_size(
    values: Sequence[float], before: float | None, now: float | None, *, overwrite: bool
) -> bool:
    if not values:
        return True
    if not now:  # to OpenREM, too, 0 is none
        return False
    right = [values[-1 if overwrite else 0]]
    if before and not overwrite:
        right.append(before)
    return any(isclose(now, one, rel_tol=0.0, abs_tol=LEAST_SIZE) for one in right)
