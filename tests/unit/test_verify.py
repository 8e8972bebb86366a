"""`ingest.verify`: nothing less than the whole object is a proof."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Reason
from ingest.model import OF_OBJECTS, Doses, Facts, Header, Importer, Shortfall, StudyHeld
from ingest.verify import Proof, verify
from tests.strategies import (
    STORAGE,
    a_header,
    a_snapshot,
    a_study,
    doses,
    facts_of,
    studies,
)

IMAGE = a_header()
REPORT = a_header(sop_class_uid=STORAGE + "88.67", modality="SR")
DOSE_INFO = a_header(sop_class_uid=STORAGE + "7", modality="CT")
NM_IMAGE = a_header(sop_class_uid=STORAGE + "20", modality="NM")
PET_IMAGE = a_header(sop_class_uid=STORAGE + "128", modality="PT")
EVENTS = ("1.2.3", "1.2.4", "1.2.5")

WITH_IMAGE = a_study(event_uids=("9.9", IMAGE.sop_instance_uid), event_rows=2, number_of_events=2)
WITH_REPORT = a_study(event_uids=EVENTS, event_rows=3, number_of_events=3)
DOSES: tuple[Doses, ...] = ((0.0, 0.0), (7.20097872, 196.01), (7.20097872, 200.0), (None, 300.0))
WITH_DOSE_INFO = a_study(
    has_sop=False, has_ct_dose=True, event_rows=4, number_of_events=4, ct_doses=DOSES
)
SLICE = a_header(sop_class_uid=STORAGE + "2", modality="CT")
WITH_SLICE = replace(WITH_REPORT, has_ct_dose=True, is_from_dose_screen=True, objects=9)

HELD: dict[Importer, tuple[Header, Facts]] = {
    Importer.DX: (IMAGE, facts_of(IMAGE, WITH_IMAGE)),
    Importer.MG: (IMAGE, facts_of(IMAGE, WITH_IMAGE)),
    Importer.RDSR: (REPORT, facts_of(REPORT, WITH_REPORT, event_uids=EVENTS)),
    Importer.CTPHILIPS: (DOSE_INFO, facts_of(DOSE_INFO, WITH_DOSE_INFO, exposures=DOSES)),
    Importer.CTTOSHIBA: (SLICE, facts_of(SLICE, WITH_SLICE, event_uids=EVENTS)),
    Importer.NM: (
        PET_IMAGE,
        facts_of(
            PET_IMAGE,
            a_study(number_of_events=None, has_radiopharmaceutical_dose=True, has_pet_series=True),
        ),
    ),
}

Loss = Callable[[StudyHeld], StudyHeld]


def losing_an_event(study: StudyHeld) -> StudyHeld:
    return replace(study, event_uids=study.event_uids[:-1])


def losing_an_event_row(study: StudyHeld) -> StudyHeld:
    return replace(study, event_rows=study.event_rows - 1)


def losing_the_patient(study: StudyHeld) -> StudyHeld:
    return replace(study, patient_rows=0)


def losing_the_count(study: StudyHeld) -> StudyHeld:
    return replace(study, number_of_events=None)


def losing_the_sop_record(study: StudyHeld) -> StudyHeld:
    return replace(study, has_sop=False)


def losing_the_ct_dose(study: StudyHeld) -> StudyHeld:
    return replace(study, has_ct_dose=False)


def losing_the_administration(study: StudyHeld) -> StudyHeld:
    return replace(study, has_radiopharmaceutical_dose=False)


def losing_the_pet_series(study: StudyHeld) -> StudyHeld:
    return replace(study, has_pet_series=False)


_PROJECTION: tuple[Loss, ...] = (
    losing_an_event,
    losing_an_event_row,
    losing_the_patient,
    losing_the_count,
    losing_the_sop_record,
)
LOSSES: dict[Importer, tuple[Loss, ...]] = {
    Importer.DX: _PROJECTION,
    Importer.MG: _PROJECTION,
    Importer.RDSR: _PROJECTION,
    Importer.CTPHILIPS: (
        losing_an_event_row,
        losing_the_patient,
        losing_the_count,
        losing_the_ct_dose,
    ),
    Importer.CTTOSHIBA: (*_PROJECTION, losing_the_ct_dose),
    Importer.NM: (
        losing_the_sop_record,
        losing_the_patient,
        losing_the_administration,
        losing_the_pet_series,
    ),
}


def judged(importer: Importer, header: Header, facts: Facts) -> Proof | Shortfall:
    return verify(a_snapshot(), header, importer, facts)


def reason_of(verdict: Proof | Shortfall) -> Reason | None:
    return verdict.reason if isinstance(verdict, Shortfall) else None


@pytest.mark.parametrize("importer", OF_OBJECTS)
def test_an_object_that_is_held_is_proven(importer: Importer) -> None:
    header, facts = HELD[importer]

    proof = judged(importer, header, facts)

    assert isinstance(proof, Proof)
    assert proof.snapshot == a_snapshot()
    assert (proof.sop_instance_uid, proof.study_uid) == (header.sop_instance_uid, header.study_uid)
    assert not proof.already
    assert proof.evidence


@pytest.mark.parametrize("importer", OF_OBJECTS)
def test_a_proof_tells_whether_it_was_held_before(importer: Importer) -> None:
    header, facts = HELD[importer]

    proof = judged(importer, header, replace(facts, already=True))

    assert isinstance(proof, Proof)
    assert proof.already


@pytest.mark.parametrize(
    ("importer", "loss"),
    [(importer, loss) for importer, losses in LOSSES.items() for loss in losses],
    ids=lambda value: value.value if isinstance(value, Importer) else value.__name__,
)
@pytest.mark.parametrize("already", [True, False])
def test_without_any_one_fact_there_is_no_proof(
    importer: Importer, loss: Loss, already: bool
) -> None:
    header, facts = HELD[importer]
    less = replace(facts, already=already, studies=tuple(map(loss, facts.studies)))

    verdict = judged(importer, header, less)

    if importer is Importer.CTPHILIPS and loss is losing_the_ct_dose:
        assert reason_of(verdict) is Reason.OTHER_SOURCE
    elif importer is Importer.CTTOSHIBA and loss is losing_the_sop_record:
        assert reason_of(verdict) is Reason.LATE_IMAGE
    else:
        assert reason_of(verdict) is (Reason.HELD_IN_PART if already else Reason.NOT_HELD)


@pytest.mark.parametrize("importer", OF_OBJECTS)
def test_what_openrem_holds_nothing_of_is_not_held(importer: Importer) -> None:
    header, facts = HELD[importer]

    assert reason_of(judged(importer, header, replace(facts, studies=()))) is Reason.NOT_HELD


@pytest.mark.parametrize("importer", OF_OBJECTS)
def test_what_the_importer_refused_is_not_proven_by_what_lies_there(importer: Importer) -> None:
    header, facts = HELD[importer]

    assert reason_of(judged(importer, header, replace(facts, refused=True))) is Reason.REFUSED


@pytest.mark.parametrize("importer", OF_OBJECTS)
@pytest.mark.parametrize("field", ["sop_instance_uid", "study_uid", "sop_class_uid"])
def test_if_openrem_read_another_object_than_we_did_nothing_is_proven(
    importer: Importer, field: str
) -> None:
    header, facts = HELD[importer]
    other = a_header(**(asdict(header) | {field: "9.9.9"}))

    assert reason_of(judged(importer, other, facts)) is Reason.CHANGED


# -- dose reports --------------------------------------------------------------------------------


def report(events: tuple[str | None, ...], *held: StudyHeld) -> Proof | Shortfall:
    return judged(Importer.RDSR, REPORT, facts_of(REPORT, *held, event_uids=events))


def rows(*uids: str | None, **changes: object) -> StudyHeld:
    return a_study(event_uids=uids, event_rows=len(uids), number_of_events=len(uids), **changes)


@given(
    events=st.lists(st.none() | st.sampled_from(("1.1", "1.2", "1.3", "1.4")), max_size=8),
    lost=st.data(),
)
def test_every_event_of_a_report_counts(events: list[str | None], lost: st.DataObject) -> None:
    """Also those without a UID, and each of those that share one."""
    assert isinstance(report(tuple(events), rows(*events)), Proof)
    if events:
        fewer = events.copy()
        fewer.pop(lost.draw(st.integers(0, len(events) - 1)))
        assert reason_of(report(tuple(events), rows(*fewer))) is Reason.NOT_HELD


def test_a_report_may_be_covered_by_a_later_cumulative_one() -> None:
    assert isinstance(report(("1.1", "1.2"), rows("1.1", "1.2", "1.3")), Proof)


def test_the_events_may_lie_in_a_sibling_row_of_the_study() -> None:
    """Two reports of one study that differ make two rows in OpenREM."""
    sibling = rows("1.2", has_sop=False)

    assert isinstance(report(("1.1", "1.2"), rows("1.1"), sibling), Proof)


@pytest.mark.parametrize("loss", [losing_the_patient, losing_the_count, losing_an_event_row])
def test_an_event_of_a_sibling_row_that_is_not_finished_does_not_count(loss: Loss) -> None:
    """Its UID is written before its doses."""
    sibling = loss(rows("1.2", has_sop=False))

    assert reason_of(report(("1.1", "1.2"), rows("1.1"), sibling)) is Reason.NOT_HELD


def test_a_sibling_row_does_not_stand_in_for_the_one_that_has_the_record() -> None:
    unfinished = rows("1.1", patient_rows=0)
    sibling = rows("1.2", has_sop=False)

    assert reason_of(report(("1.1", "1.2"), unfinished, sibling)) is Reason.NOT_HELD


def test_a_report_without_events_is_held_when_its_study_is_finished() -> None:
    """One of OpenREM's own 40 has none."""
    assert isinstance(report((), rows()), Proof)
    assert reason_of(report((), rows(has_sop=False))) is Reason.NOT_HELD


def test_a_report_without_events_is_held_only_where_its_row_was_made_of_it_alone() -> None:
    """OpenREM takes no events for a part of any study."""
    assert reason_of(report((), rows(objects=2))) is Reason.NOT_HELD
    assert reason_of(report((), rows("1.1", objects=2))) is Reason.NOT_HELD
    assert reason_of(report((), rows(patient_rows=0), rows(has_sop=False))) is Reason.NOT_HELD


def test_an_event_without_a_uid_does_not_stand_for_one_that_has_one() -> None:
    assert reason_of(report(("1.1",), rows(None))) is Reason.NOT_HELD
    assert reason_of(report((None,), rows("1.1"))) is Reason.NOT_HELD


def test_events_without_uids_are_held_only_where_no_other_report_could_have_brought_them() -> None:
    assert isinstance(report((None, None), rows(None, None)), Proof)
    assert reason_of(report((None, None), rows(None, None, objects=2))) is Reason.NOT_HELD
    assert isinstance(report(("1.1", "1.2"), rows("1.1", "1.2", objects=2)), Proof)


def test_the_shortfall_counts_what_is_missing() -> None:
    verdict = report(("1.1", "1.2", "1.3"), rows("1.2"))

    assert isinstance(verdict, Shortfall)
    assert verdict.detail == "2 of 3 events are missing"


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("importer", [Importer.DX, Importer.MG])
def test_an_image_may_be_held_as_the_twin_of_another(importer: Importer) -> None:
    """Processing and presentation of one exposure: OpenREM stores one event for both."""
    twin = a_study(
        event_uids=("9.9",), event_rows=1, number_of_events=1, has_event_at_same_time=True
    )

    proof = judged(importer, IMAGE, facts_of(IMAGE, twin))

    assert isinstance(proof, Proof)
    assert "twin" in proof.evidence
    for loss in (losing_the_sop_record, losing_the_patient, losing_the_count):
        assert isinstance(judged(importer, IMAGE, facts_of(IMAGE, loss(twin))), Shortfall)


@pytest.mark.parametrize("importer", [Importer.DX, Importer.MG])
def test_the_facts_on_an_image_may_not_be_gathered_from_two_rows(importer: Importer) -> None:
    """OpenREM records an image with the very study that has its event."""
    recorded = a_study(event_uids=("9.9",), event_rows=1, number_of_events=1)
    event = replace(WITH_IMAGE, has_sop=False)

    assert isinstance(judged(importer, IMAGE, facts_of(IMAGE, recorded, event)), Shortfall)


def test_of_a_gamma_camera_image_no_pet_series_is_asked() -> None:
    held = a_study(has_radiopharmaceutical_dose=True)

    assert isinstance(judged(Importer.NM, NM_IMAGE, facts_of(NM_IMAGE, held)), Proof)
    assert isinstance(judged(Importer.NM, PET_IMAGE, facts_of(PET_IMAGE, held)), Shortfall)


@pytest.mark.parametrize("already", [True, False])
def test_a_dose_report_that_a_rule_sends_to_the_importer_of_images_is_not_proven(
    already: bool,
) -> None:
    """Whatever an import that broke off has left of it: not all its events need be there."""
    header = a_header(sop_class_uid=STORAGE + "88.68", modality="SR")
    part = a_study(has_radiopharmaceutical_dose=True, event_uids=EVENTS[:1])
    facts = facts_of(header, part, event_uids=EVENTS, already=already)

    assert reason_of(judged(Importer.NM, header, facts)) is Reason.REFUSED


@pytest.mark.parametrize("importer", [Importer.DX, Importer.MG])
def test_an_image_is_not_held_by_another_exposure_under_its_uid(importer: Importer) -> None:
    """What this very import has stored can't be another's."""
    other = replace(WITH_IMAGE, has_other_exposure=True)
    twin = replace(other, has_event_at_same_time=True)

    for held in (other, twin):
        facts = facts_of(IMAGE, held)
        assert isinstance(judged(importer, IMAGE, facts), Proof)
        verdict = judged(importer, IMAGE, replace(facts, already=True))
        assert reason_of(verdict) is Reason.NOT_HELD
        both = replace(facts, already=True, studies=(held, WITH_IMAGE))
        assert isinstance(judged(importer, IMAGE, both), Proof)


@pytest.mark.parametrize("already", [True, False])
def test_an_image_is_not_held_by_another_administration_of_its_study(already: bool) -> None:
    header, facts = HELD[Importer.NM]
    (held,) = facts.studies
    other = replace(held, has_other_administration=True)

    verdict = judged(Importer.NM, header, replace(facts, already=already, studies=(other,)))

    assert reason_of(verdict) is Reason.NOT_HELD
    both = replace(facts, already=already, studies=(other, held))
    assert isinstance(judged(Importer.NM, header, both), Proof)


# -- Philips dose info ---------------------------------------------------------------------------


def test_a_study_from_a_dose_report_makes_openrem_ignore_the_dose_info() -> None:
    other = a_study(event_rows=9, number_of_events=9, has_ct_dose=True, ct_doses=DOSES)

    verdict = judged(Importer.CTPHILIPS, DOSE_INFO, facts_of(DOSE_INFO, other, exposures=DOSES))

    assert reason_of(verdict) is Reason.OTHER_SOURCE


def dose_info(exposures: tuple[Doses, ...], stored: tuple[Doses, ...]) -> Proof | Shortfall:
    held = replace(
        WITH_DOSE_INFO, event_rows=len(stored), number_of_events=len(stored), ct_doses=stored
    )
    return judged(Importer.CTPHILIPS, DOSE_INFO, facts_of(DOSE_INFO, held, exposures=exposures))


@given(order=st.permutations(DOSES))
def test_exposures_are_told_by_their_doses_in_whatever_order(order: list[Doses]) -> None:
    assert isinstance(dose_info(DOSES, tuple(order)), Proof)


@given(
    others=st.lists(doses, max_size=5),
    other=st.sampled_from(((7.2, 999.0), (99.9, 196.01), (7.3, 196.01))),
)
def test_every_dose_of_a_dose_info_counts(others: list[Doses], other: Doses) -> None:
    """And each of them as often as it is there."""
    mine = [(7.2, 196.01), *others]
    theirs = [other, *others]

    assert isinstance(dose_info(tuple(mine), tuple(mine)), Proof)
    if None not in {dose for pair in others for dose in pair}:
        assert reason_of(dose_info(tuple(mine), tuple(theirs))) is Reason.OTHER_SOURCE


def test_doses_may_be_rounded_or_left_untold() -> None:
    assert isinstance(dose_info(((7.2, 196.01),), ((7.20097872, 196.0),)), Proof)
    assert isinstance(dose_info(((None, 196.01),), ((7.2, 196.01),)), Proof)
    assert isinstance(dose_info(((7.2, 196.01),), ((7.2, None),)), Proof)
    assert isinstance(dose_info(((0.0, 196.01),), ((7.2, 196.01),)), Shortfall)


def test_as_many_events_of_another_kind_are_no_exposures() -> None:
    held = replace(WITH_DOSE_INFO, ct_doses=())

    verdict = judged(Importer.CTPHILIPS, DOSE_INFO, facts_of(DOSE_INFO, held, exposures=DOSES))

    assert reason_of(verdict) is Reason.OTHER_SOURCE


# -- images of a study ---------------------------------------------------------------------------


def test_an_image_without_a_report_is_proven_only_if_it_was_recorded_before() -> None:
    facts = facts_of(SLICE, WITH_SLICE)

    assert isinstance(judged(Importer.CTTOSHIBA, SLICE, replace(facts, already=True)), Proof)
    assert reason_of(judged(Importer.CTTOSHIBA, SLICE, facts)) is Reason.NOT_HELD


def test_a_study_without_events_proves_none_of_its_images() -> None:
    empty = replace(WITH_SLICE, event_uids=(), event_rows=0, number_of_events=0)

    for already in (True, False):
        facts = facts_of(SLICE, empty, already=already)
        assert isinstance(judged(Importer.CTTOSHIBA, SLICE, facts), Shortfall)


def test_events_in_another_row_prove_no_image() -> None:
    """The row that it is recorded in must be that of its report."""
    other = replace(WITH_SLICE, event_uids=("1.1",), event_rows=1, number_of_events=1)

    verdict = judged(
        Importer.CTTOSHIBA,
        SLICE,
        facts_of(SLICE, other, replace(WITH_SLICE, has_sop=False), event_uids=EVENTS),
    )

    assert isinstance(verdict, Shortfall)


@pytest.mark.parametrize(
    ("is_from_dose_screen", "reason"), [(True, Reason.LATE_IMAGE), (False, Reason.OTHER_SOURCE)]
)
def test_an_image_of_a_study_that_openrem_has_without_it(
    *, is_from_dose_screen: bool, reason: Reason
) -> None:
    study = replace(WITH_SLICE, has_sop=False, is_from_dose_screen=is_from_dose_screen)

    assert reason_of(judged(Importer.CTTOSHIBA, SLICE, facts_of(SLICE, study))) is reason


# -- whatever the facts are ----------------------------------------------------------------------


@given(
    importer=st.sampled_from(OF_OBJECTS),
    held=st.lists(studies, max_size=3),
    events=st.lists(st.none() | st.sampled_from(("1.2.3", "1.2.4")), max_size=3),
    exposures=st.lists(doses, max_size=5),
    already=st.booleans(),
)
def test_a_proof_always_rests_on_a_row_with_its_patient(
    importer: Importer,
    held: list[StudyHeld],
    events: list[str | None],
    exposures: list[Doses],
    already: bool,
) -> None:
    header, _ = HELD[importer]
    facts = facts_of(
        header, *held, event_uids=tuple(events), exposures=tuple(exposures), already=already
    )

    verdict = judged(importer, header, facts)

    if isinstance(verdict, Proof):
        assert verdict.already == already
        assert any(study.patient_rows for study in held)
        assert importer is Importer.CTPHILIPS or any(study.has_sop for study in held)
    elif verdict.reason is Reason.HELD_IN_PART:
        assert already
    else:
        assert verdict.reason in {Reason.NOT_HELD, Reason.OTHER_SOURCE, Reason.LATE_IMAGE}


@given(importer=st.sampled_from(OF_OBJECTS), more=st.lists(studies, max_size=3))
def test_further_rows_never_undo_a_proof(importer: Importer, more: list[StudyHeld]) -> None:
    header, facts = HELD[importer]

    assert isinstance(
        judged(importer, header, replace(facts, studies=(*more, *facts.studies))), Proof
    )


def test_a_proof_needs_every_one_of_its_parts() -> None:
    with pytest.raises(TypeError):
        Proof(sop_instance_uid="1.2")  # type: ignore[call-arg]
    assert len(fields(Proof)) == 7


def test_a_mammogram_as_secondary_capture_has_no_twin() -> None:
    """OpenREM makes no twin of it, so an event at the same time is another's."""
    header = a_header(sop_class_uid=STORAGE + "7", modality="MG")
    twin = replace(WITH_IMAGE, event_uids=("9.9", "9.8"), has_event_at_same_time=True)
    assert isinstance(judged(Importer.MG, IMAGE, facts_of(IMAGE, twin)), Proof)
    assert isinstance(judged(Importer.MG, header, facts_of(header, twin)), Shortfall)
