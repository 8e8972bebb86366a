"""Make the sample objects of this folder: synthetic, byte for byte the same on every run.

Nothing in them comes from a patient, a scanner or someone else's test file. The dose reports are
built item by item after the templates of DICOM PS3.16 annex A, the images after the modules of
PS3.3, with just enough of both for OpenREM to read the doses out of them.

Run ``python sample_data/make.py`` (``--into DIR`` to write elsewhere).
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["pydicom>=3.0.2"]
# ///

import argparse
import io
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import log10
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

XRAY_DOSE_SR = UID("1.2.840.10008.5.1.4.1.1.88.67")
ENHANCED_SR = UID("1.2.840.10008.5.1.4.1.1.88.22")
DX_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.1")
MAMMO_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.2")

UID_NAMESPACE = uuid.UUID("1efa0351-fbc7-4b65-b1d3-bd06a8b9eb31")
FIRST_DAY = datetime(2024, 3, 4, 9, 15, tzinfo=UTC)
MAKER = "openrem-ingest"
TWO_PLACES = Decimal("0.01")
IMAGE_SIDE = 8  # pixels: the dose is in the header, the picture only has to be there


def uid(*names: str) -> UID:
    """A UID that belongs to ``names`` for ever, under the root for UUIDs (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(UID_NAMESPACE, '/'.join(names)).int}")


# --- codes and units (PS3.3 8.8, PS3.16 annex D) -------------------------------------------------


class Code(NamedTuple):
    """A coded concept; OpenREM recognises many of them by their meaning, letter by letter."""

    value: str
    scheme: str
    meaning: str

    def dataset(self) -> Dataset:
        """The item of a code sequence."""
        item = Dataset()
        item.CodeValue = self.value
        item.CodingSchemeDesignator = self.scheme
        item.CodeMeaning = self.meaning
        return item


def dcm(value: str, meaning: str) -> Code:
    """A concept of DICOM's own."""
    return Code(value, "DCM", meaning)


def sct(value: str, meaning: str) -> Code:
    """A concept of SNOMED CT."""
    return Code(value, "SCT", meaning)


def unit(value: str, meaning: str = "") -> Code:
    """A unit of measurement (PS3.16 CID 82)."""
    return Code(value, "UCUM", meaning or value)


NO_UNITS = unit("1", "no units")
YES = sct("373066001", "Yes")
LEFT = sct("7771000", "Left")
RIGHT = sct("24028007", "Right")
LATERALITY = sct("272741003", "Laterality")
BREAST = sct("76752008", "Breast")
CHEST = sct("816094009", "Chest")
ABDOMEN = sct("818981001", "Abdomen")
CRANIO_CAUDAL = sct("399162004", "cranio-caudal")
OBLIQUE = sct("399368009", "medio-lateral oblique")
ACQUISITION_PLANE = dcm("113764", "Acquisition Plane")
SINGLE_PLANE = dcm("113622", "Single Plane")
REFERENCE_POINT = dcm("113780", "Reference Point Definition")
FLUOROSCOPY = sct("44491008", "Fluoroscopy")  # with the next, PS3.16 CID 10002
STATIONARY = dcm("113611", "Stationary Acquisition")
CONSTANT_ANGLE = dcm("113805", "Constant Angle Acquisition")  # with the next, PS3.16 CID 10013
SPIRAL = sct("116152004", "Spiral Acquisition")
CT_ACQUISITION = dcm("113819", "CT Acquisition")
PROJECTION = dcm("113704", "Projection X-Ray")
MAMMOGRAPHY = sct("71651007", "Mammography")

# --- content items (PS3.3 C.17.3) ----------------------------------------------------------------

CONTAINS = "CONTAINS"
PROPERTY = "HAS PROPERTIES"
MODIFIER = "HAS CONCEPT MOD"
CONTEXT = "HAS OBS CONTEXT"

Number = Decimal | int


def content(value_type: str, concept: Code, relation: str, children: Iterable[Dataset]) -> Dataset:
    """What every content item has, whatever its value."""
    item = Dataset()
    item.RelationshipType = relation
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [concept.dataset()]
    if below := list(children):
        item.ContentSequence = below
    return item


def container(concept: Code, *children: Dataset) -> Dataset:
    """A CONTAINER item."""
    item = content("CONTAINER", concept, CONTAINS, children)
    item.ContinuityOfContent = "SEPARATE"
    return item


def code(concept: Code, value: Code, *children: Dataset, relation: str = CONTAINS) -> Dataset:
    """A CODE item."""
    item = content("CODE", concept, relation, children)
    item.ConceptCodeSequence = [value.dataset()]
    return item


def num(concept: Code, value: Number, units: Code, *children: Dataset) -> Dataset:
    """A NUM item."""
    measured = Dataset()
    measured.NumericValue = str(value)
    measured.MeasurementUnitsCodeSequence = [units.dataset()]
    item = content("NUM", concept, CONTAINS, children)
    item.MeasuredValueSequence = [measured]
    return item


def text(concept: Code, value: str, relation: str = CONTAINS) -> Dataset:
    """A TEXT item."""
    item = content("TEXT", concept, relation, ())
    item.TextValue = value
    return item


def uidref(concept: Code, value: UID, relation: str = CONTAINS) -> Dataset:
    """A UIDREF item."""
    item = content("UIDREF", concept, relation, ())
    item.UID = value
    return item


def moment(concept: Code, value: datetime, relation: str = CONTAINS) -> Dataset:
    """A DATETIME item."""
    item = content("DATETIME", concept, relation, ())
    item.DateTime = f"{value:%Y%m%d%H%M%S}"
    return item


# --- what all objects share ----------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """One imaginary study of one imaginary patient on one imaginary machine, each on its day."""

    number: int
    kind: str
    description: str

    @property
    def start(self) -> datetime:
        """When it began; the zone is never written."""
        return FIRST_DAY + timedelta(days=self.number - 1)

    @property
    def key(self) -> str:
        """The name its UIDs are made from."""
        return f"study-{self.number}"

    @property
    def model(self) -> str:
        """The machine's model name."""
        return f"Sample {self.kind}"

    @property
    def station(self) -> str:
        """The machine's station name: at most 16 characters (PS3.5 6.2, SH)."""
        return f"SAMPLE-{self.kind.upper()}"

    @property
    def serial(self) -> str:
        """The machine's serial number."""
        return f"{self.station}-001"

    @property
    def uid(self) -> UID:
        """The Study Instance UID."""
        return uid(self.key)

    def after(self, seconds: float) -> datetime:
        """A moment in the course of the study."""
        return self.start + timedelta(seconds=seconds)


CT = Study(1, "CT", "CT chest and abdomen")
RF = Study(2, "RF", "Fluoroscopy of the abdomen")
MG_REPORT = Study(3, "MG", "Mammography, reported")
DX = Study(4, "DX", "Chest, two views")
MG_IMAGES = Study(5, "Mammo", "Mammography, images")
NOT_DOSE = Study(6, "Reading", "Report without dose")
CUT_SHORT = Study(7, "CT", "CT chest and abdomen, cut short")


def date_of(when: datetime) -> str:
    """A DA value."""
    return f"{when:%Y%m%d}"


def time_of(when: datetime) -> str:
    """A TM value with its fraction, as scanners write it."""
    return f"{when:%H%M%S.%f}"


def instance(study: Study, sop_class: UID, modality: str, number: int) -> Dataset:
    """The modules of the patient, the study, the series and the machine (PS3.3 C.7, C.12.1)."""
    out = Dataset()
    out.SpecificCharacterSet = "ISO_IR 192"
    out.SOPClassUID = sop_class
    out.SOPInstanceUID = uid(study.key, modality, str(number))

    out.PatientName = f"Sample^{study.kind}"
    out.PatientID = f"SAMPLE-{study.number}"
    out.PatientBirthDate = "19700101"
    out.PatientSex = "O"
    out.PatientAge = "054Y"

    out.StudyInstanceUID = study.uid
    out.StudyDate = date_of(study.start)
    out.StudyTime = time_of(study.start)
    out.StudyID = str(study.number)
    out.AccessionNumber = f"SAMPLE-ACC-{study.number}"
    out.StudyDescription = study.description
    out.ReferringPhysicianName = ""

    out.Modality = modality
    out.SeriesInstanceUID = uid(study.key, modality)
    out.SeriesNumber = 1
    out.InstanceNumber = number

    out.Manufacturer = MAKER
    out.InstitutionName = "Sample Hospital"
    out.StationName = study.station
    out.ManufacturerModelName = study.model
    out.DeviceSerialNumber = study.serial
    out.SoftwareVersions = "1.0"
    return out


def encoded(instance_: Dataset) -> bytes:
    """The object as a file: preamble, file meta, explicit VR little endian (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = instance_.SOPClassUID
    meta.MediaStorageSOPInstanceUID = instance_.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = "OPENREM-INGEST"
    instance_.file_meta = meta
    out = io.BytesIO()
    dcmwrite(out, instance_, enforce_file_format=True)
    return out.getvalue()


# --- structured reports --------------------------------------------------------------------------


def report(
    study: Study, sop_class: UID, title: Code, template: str, items: Iterable[Dataset]
) -> Dataset:
    """A complete, unverified report with ``title`` as its root (PS3.3 C.17.1 to C.17.3)."""
    out = instance(study, sop_class, "SR", 1)
    written = study.after(600)
    out.SeriesDate = out.ContentDate = date_of(written)
    out.SeriesTime = out.ContentTime = time_of(written)
    out.SeriesDescription = title.meaning
    out.ReferencedPerformedProcedureStepSequence = []
    out.PerformedProcedureCodeSequence = []
    out.CompletionFlag = "COMPLETE"
    out.VerificationFlag = "UNVERIFIED"

    out.ValueType = "CONTAINER"
    out.ContinuityOfContent = "SEPARATE"
    out.ConceptNameCodeSequence = [title.dataset()]
    identified = Dataset()
    identified.MappingResource = "DCMR"
    identified.TemplateIdentifier = template
    out.ContentTemplateSequence = [identified]
    out.ContentSequence = list(items)
    return out


def dose_report(study: Study, template: str, items: Iterable[Dataset]) -> Dataset:
    """An X-Ray Radiation Dose Report (PS3.3 A.35.8)."""
    title = dcm("113701", "X-Ray Radiation Dose Report")
    return report(study, XRAY_DOSE_SR, title, template, items)


def procedure_reported(procedure: Code) -> Dataset:
    """What was done and why; OpenREM takes the modality from it (PS3.16 TID 10001 row 2)."""
    return code(
        dcm("121058", "Procedure reported"),
        procedure,
        code(
            sct("363703001", "Has Intent"),
            sct("261004008", "Diagnostic Intent"),
            relation=MODIFIER,
        ),
        relation=MODIFIER,
    )


def device_observer(study: Study) -> list[Dataset]:
    """The machine as the author of its report (PS3.16 TID 1002 and TID 1004)."""
    return [
        code(dcm("121005", "Observer Type"), dcm("121007", "Device"), relation=CONTEXT),
        uidref(dcm("121012", "Device Observer UID"), uid(study.station), CONTEXT),
        text(dcm("121013", "Device Observer Name"), study.station, CONTEXT),
        text(dcm("121014", "Device Observer Manufacturer"), MAKER, CONTEXT),
        text(dcm("121015", "Device Observer Model Name"), study.model, CONTEXT),
        text(dcm("121016", "Device Observer Serial Number"), study.serial, CONTEXT),
    ]


def whole_study(study: Study) -> Dataset:
    """The totals are those of the study (PS3.16 CID 10000)."""
    return code(
        dcm("113705", "Scope of Accumulation"),
        dcm("113014", "Study"),
        uidref(dcm("110180", "Study Instance UID"), study.uid, PROPERTY),
        relation=CONTEXT,
    )


def dose_source() -> Dataset:
    """The doses came from the machine itself (PS3.16 CID 10020)."""
    return code(
        dcm("113854", "Source of Dose Information"), dcm("113856", "Automated Data Collection")
    )


def irradiating_device(study: Study) -> Dataset:
    """The machine as a participant of an event (PS3.16 TID 1021)."""
    return code(
        dcm("113876", "Device Role in Procedure"),
        dcm("113859", "Irradiating Device"),
        text(dcm("113877", "Device Name"), study.station, PROPERTY),
        text(dcm("113878", "Device Manufacturer"), MAKER, PROPERTY),
        text(dcm("113879", "Device Model Name"), study.model, PROPERTY),
        text(dcm("113880", "Device Serial Number"), study.serial, PROPERTY),
    )


def event_uid(study: Study, number: int) -> Dataset:
    """What tells one irradiation from all others (PS3.16 TID 10003 and TID 10013)."""
    return uidref(dcm("113769", "Irradiation Event UID"), uid(study.key, "event", str(number)))


def started(when: datetime) -> Dataset:
    """When the event began."""
    return moment(dcm("111526", "DateTime Started"), when)


def protocol(name: str) -> Dataset:
    """The name of the protocol."""
    return text(dcm("125203", "Acquisition Protocol"), name)


def target(region: Code) -> Dataset:
    """The part of the body."""
    return code(dcm("123014", "Target Region"), region)


# --- CT ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """One CT acquisition."""

    name: str
    region: Code
    acquisition: Code
    ctdi_vol: Decimal  # mGy
    length: int  # mm
    kvp: int
    current: int  # mA
    time: int  # ms
    pitch: Decimal | None = None  # only where the tube turns

    @property
    def dlp(self) -> Decimal:
        """The dose length product in mGy.cm."""
        return (self.ctdi_vol * self.length / 10).quantize(TWO_PLACES)


SCANS = (
    Scan("localizer", CHEST, CONSTANT_ANGLE, Decimal("0.12"), 450, 120, 30, 4500),
    Scan("chest", CHEST, SPIRAL, Decimal("6.20"), 350, 100, 140, 3200, Decimal("1.2")),
    Scan("abdomen", ABDOMEN, SPIRAL, Decimal("8.40"), 420, 120, 165, 6100, Decimal("0.9")),
)


def ct_source(scan: Scan) -> Dataset:
    """Tube voltage and current (PS3.16 TID 10013, CT X-Ray Source Parameters)."""
    items = [
        text(dcm("113832", "Identification of the X-Ray Source"), "A"),
        num(dcm("113733", "KVP"), scan.kvp, unit("kV")),
        num(dcm("113833", "Maximum X-Ray Tube Current"), scan.current + 20, unit("mA")),
        num(dcm("113734", "X-Ray Tube Current"), scan.current, unit("mA")),
    ]
    if scan.pitch is not None:
        turn = num(dcm("113834", "Exposure Time per Rotation"), Decimal("0.5"), unit("s"))
        items.append(turn)
    return container(dcm("113831", "CT X-Ray Source Parameters"), *items)


def ct_parameters(scan: Scan) -> Dataset:
    """The geometry and timing of a scan (PS3.16 TID 10013 row 7, TID 10014)."""
    items = [
        num(dcm("113824", "Exposure Time"), Decimal(scan.time) / 1000, unit("s")),
        num(dcm("113825", "Scanning Length"), scan.length, unit("mm")),
        num(dcm("113826", "Nominal Single Collimation Width"), Decimal("0.6"), unit("mm")),
        num(dcm("113827", "Nominal Total Collimation Width"), Decimal("38.4"), unit("mm")),
    ]
    if scan.pitch is not None:
        items.append(num(dcm("113828", "Pitch Factor"), scan.pitch, unit("{ratio}", "ratio")))
    sources = unit("{X-Ray sources}", "X-Ray sources")
    items.append(num(dcm("113823", "Number of X-Ray Sources"), 1, sources))
    items.append(ct_source(scan))
    return container(dcm("113822", "CT Acquisition Parameters"), *items)


def ct_dose(scan: Scan) -> Dataset:
    """The dose of a scan (PS3.16 TID 10013, CT Dose); scanners give localizers one too."""
    return container(
        dcm("113829", "CT Dose"),
        num(dcm("113830", "Mean CTDIvol"), scan.ctdi_vol, unit("mGy")),
        code(dcm("113835", "CTDIw Phantom Type"), dcm("113691", "IEC Body Dosimetry Phantom")),
        num(dcm("113838", "DLP"), scan.dlp, unit("mGy.cm")),
    )


def ct_acquisition(study: Study, number: int, scan: Scan) -> Dataset:
    """One irradiation event (PS3.16 TID 10013, whose order is significant)."""
    return container(
        CT_ACQUISITION,
        protocol(f"Sample {scan.name}"),
        target(scan.region),
        code(dcm("113820", "CT Acquisition Type"), scan.acquisition),
        code(sct("408730004", "Procedure Context"), sct("399331006", "CT without contrast")),
        event_uid(study, number),
        started(study.after(60 * number)),
        ct_parameters(scan),
        ct_dose(scan),
        irradiating_device(study),
    )


def ct_totals(scans: tuple[Scan, ...]) -> Dataset:
    """The dose of the study (PS3.16 TID 10012)."""
    events = unit("{events}", "events")
    total = sum((scan.dlp for scan in scans), Decimal(0))
    return container(
        dcm("113811", "CT Accumulated Dose Data"),
        num(dcm("113812", "Total Number of Irradiation Events"), len(scans), events),
        num(dcm("113813", "CT Dose Length Product Total"), total, unit("mGy.cm")),
    )


def ct_report(study: Study) -> Dataset:
    """A CT dose report (PS3.16 TID 10011)."""
    items = [
        procedure_reported(sct("77477000", "Computed Tomography X-Ray")),
        *device_observer(study),
        moment(dcm("113809", "Start of X-Ray Irradiation"), study.after(60), CONTEXT),
        moment(dcm("113810", "End of X-Ray Irradiation"), study.after(240), CONTEXT),
        whole_study(study),
        ct_totals(SCANS),
        *(ct_acquisition(study, number, scan) for number, scan in enumerate(SCANS, 1)),
        dose_source(),
    ]
    return dose_report(study, "10011", items)


# --- projection X-ray: fluoroscopy and mammography -----------------------------------------------


def projection_head(study: Study, procedure: Code, device_type: Code | None) -> list[Dataset]:
    """The head of a projection dose report (PS3.16 TID 10001).

    The device type stands before the totals: OpenREM reads top down and needs it to know which
    totals to look for. For mammography it is left out, because OpenREM takes any for a DX room.
    """
    items = [procedure_reported(procedure)]
    if device_type is not None:
        items.append(code(dcm("122142", "Acquisition Device Type"), device_type))
    items += [
        *device_observer(study),
        whole_study(study),
        code(dcm("113945", "X-Ray Detector Data Available"), YES),
        code(dcm("113943", "X-Ray Source Data Available"), YES),
        code(dcm("113944", "X-Ray Mechanical Data Available"), YES),
    ]
    return items


def plane() -> Dataset:
    """The only plane of a machine that has one."""
    return code(ACQUISITION_PLANE, SINGLE_PLANE, relation=MODIFIER)


def accumulated(*totals: Dataset) -> Dataset:
    """The dose of the study (PS3.16 TID 10002)."""
    return container(dcm("113702", "Accumulated X-Ray Dose Data"), plane(), *totals)


def irradiation_event(*items: Dataset) -> Dataset:
    """One irradiation event (PS3.16 TID 10003)."""
    return container(dcm("113706", "Irradiation Event X-Ray Data"), plane(), *items)


def flat_filter(material: Code, thickness: Decimal) -> Dataset:
    """A filter of even thickness (PS3.16 TID 10003B, X-Ray Filters)."""
    return container(
        dcm("113771", "X-Ray Filters"),
        code(dcm("113772", "X-Ray Filter Type"), dcm("113653", "Flat filter")),
        code(dcm("113757", "X-Ray Filter Material"), material),
        num(dcm("113758", "X-Ray Filter Thickness Minimum"), thickness, unit("mm")),
        num(dcm("113773", "X-Ray Filter Thickness Maximum"), thickness, unit("mm")),
    )


@dataclass(frozen=True)
class Run:
    """One pressing of the pedal."""

    kind: Code
    dap: Decimal  # Gy.m2
    rp_dose: Decimal  # Gy, at the reference point
    kvp: int
    current: int  # mA
    pulses: int
    rate: int  # pulses in a second
    width: int  # ms of each pulse

    @property
    def duration(self) -> Decimal:
        """Seconds from the first pulse to the last."""
        return Decimal(self.pulses) / self.rate

    @property
    def exposure_time(self) -> int:
        """Milliseconds of X-rays."""
        return self.pulses * self.width

    @property
    def exposure(self) -> int:
        """Tube charge in uA.s, which is mA times ms."""
        return self.current * self.exposure_time


RUNS = (
    Run(FLUOROSCOPY, Decimal("0.000042"), Decimal("0.0021"), 70, 40, 120, 10, 8),
    Run(FLUOROSCOPY, Decimal("0.000063"), Decimal("0.0032"), 72, 42, 180, 10, 8),
    Run(STATIONARY, Decimal("0.000115"), Decimal("0.0058"), 77, 310, 24, 4, 20),
    Run(FLUOROSCOPY, Decimal("0.000025"), Decimal("0.0012"), 69, 38, 75, 10, 8),
)


def rp_definition() -> Dataset:
    """Where the reference point lies (PS3.16 CID 10025)."""
    return code(REFERENCE_POINT, dcm("113860", "15cm from Isocenter toward Source"))


def rf_source(run: Run) -> list[Dataset]:
    """How the beam was made (PS3.16 TID 10003B)."""
    items = [
        num(dcm("113738", "Dose (RP)"), run.rp_dose, unit("Gy")),
        num(dcm("113768", "Number of Pulses"), run.pulses, NO_UNITS),
        num(dcm("113793", "Pulse Width"), run.width, unit("ms")),
        num(dcm("113742", "Irradiation Duration"), run.duration, unit("s")),
        num(dcm("113733", "KVP"), run.kvp, unit("kV")),
        num(dcm("113734", "X-Ray Tube Current"), run.current, unit("mA")),
        num(dcm("113824", "Exposure Time"), run.exposure_time, unit("ms")),
        num(dcm("113736", "Exposure"), run.exposure, unit("uA.s")),
        num(dcm("113766", "Focal Spot Size"), Decimal("0.6"), unit("mm")),
        flat_filter(sct("66925006", "Copper or Copper compound"), Decimal("0.2")),
    ]
    if run.kind == FLUOROSCOPY:
        pulse_rate = num(dcm("113791", "Pulse Rate"), run.rate, unit("{pulse}/s", "pulse/s"))
        items += [code(dcm("113732", "Fluoro Mode"), dcm("113631", "Pulsed")), pulse_rate]
    return items


def rf_geometry() -> list[Dataset]:
    """How the machine stood (PS3.16 TID 10003C, CID 10008)."""
    return [
        num(dcm("112011", "Positioner Primary Angle"), 0, unit("deg")),
        num(dcm("112012", "Positioner Secondary Angle"), 0, unit("deg")),
        num(dcm("113748", "Distance Source to Isocenter"), 750, unit("mm")),
        num(dcm("113750", "Distance Source to Detector"), 1100, unit("mm")),
    ]


def rf_event(study: Study, number: int, run: Run) -> Dataset:
    """One irradiation event of a fluoroscopy room."""
    return irradiation_event(
        event_uid(study, number),
        started(study.after(90 * number)),
        code(dcm("113721", "Irradiation Event Type"), run.kind),
        protocol(f"Sample {run.kind.meaning}"),
        target(ABDOMEN),
        num(dcm("122130", "Dose Area Product"), run.dap, unit("Gy.m2")),
        rp_definition(),
        *rf_source(run),
        *rf_geometry(),
        irradiating_device(study),
    )


def rf_totals(runs: tuple[Run, ...]) -> Dataset:
    """Totals of fluoroscopy, of acquisitions and of both (PS3.16 TID 10004 and TID 10007)."""
    fluoro = [run for run in runs if run.kind == FLUOROSCOPY]
    acquired = [run for run in runs if run.kind != FLUOROSCOPY]

    def dap(some: Iterable[Run]) -> Decimal:
        return sum((run.dap for run in some), Decimal(0))

    def rp_dose(some: Iterable[Run]) -> Decimal:
        return sum((run.rp_dose for run in some), Decimal(0))

    def seconds(some: Iterable[Run]) -> Decimal:
        return sum((run.duration for run in some), Decimal(0))

    area, dose, time = unit("Gy.m2"), unit("Gy"), unit("s")
    frames = sum(run.pulses for run in acquired)
    return accumulated(
        num(dcm("113722", "Dose Area Product Total"), dap(runs), area),
        num(dcm("113725", "Dose (RP) Total"), rp_dose(runs), dose),
        num(dcm("113726", "Fluoro Dose Area Product Total"), dap(fluoro), area),
        num(dcm("113728", "Fluoro Dose (RP) Total"), rp_dose(fluoro), dose),
        num(dcm("113730", "Total Fluoro Time"), seconds(fluoro), time),
        num(dcm("113727", "Acquisition Dose Area Product Total"), dap(acquired), area),
        num(dcm("113729", "Acquisition Dose (RP) Total"), rp_dose(acquired), dose),
        num(dcm("113855", "Total Acquisition Time"), seconds(acquired), time),
        num(dcm("113731", "Total Number of Radiographic Frames"), frames, NO_UNITS),
        rp_definition(),
    )


def rf_report(study: Study) -> Dataset:
    """A fluoroscopy dose report (PS3.16 TID 10001)."""
    device_type = dcm("113957", "Fluoroscopy-Guided Projection Radiography System")
    items = [
        *projection_head(study, PROJECTION, device_type),
        rf_totals(RUNS),
        *(rf_event(study, number, run) for number, run in enumerate(RUNS, 1)),
        dose_source(),
    ]
    return dose_report(study, "10001", items)


@dataclass(frozen=True)
class View:
    """One exposure of one breast."""

    side: Code
    projection: Code
    agd: Decimal  # mGy, average glandular dose
    entrance: Decimal  # mGy
    kvp: int
    current: int  # mA
    time: int  # ms
    thickness: int  # mm
    force: int  # N

    @property
    def exposure(self) -> int:
        """Tube charge in uA.s, which is mA times ms."""
        return self.current * self.time


RIGHT_CC = View(RIGHT, CRANIO_CAUDAL, Decimal("1.21"), Decimal("4.35"), 28, 100, 820, 52, 88)
LEFT_CC = View(LEFT, CRANIO_CAUDAL, Decimal("1.25"), Decimal("4.48"), 28, 100, 850, 53, 91)
RIGHT_MLO = View(RIGHT, OBLIQUE, Decimal("1.38"), Decimal("5.12"), 29, 100, 910, 57, 102)
LEFT_MLO = View(LEFT, OBLIQUE, Decimal("1.41"), Decimal("5.20"), 29, 100, 930, 58, 99)
VIEWS = (RIGHT_CC, LEFT_CC, RIGHT_MLO, LEFT_MLO)


def mg_source(view: View) -> list[Dataset]:
    """How the beam was made (PS3.16 TID 10003B)."""
    return [
        num(dcm("111631", "Average Glandular Dose"), view.agd, unit("mGy")),
        num(dcm("113733", "KVP"), view.kvp, unit("kV")),
        num(dcm("113734", "X-Ray Tube Current"), view.current, unit("mA")),
        num(dcm("113824", "Exposure Time"), view.time, unit("ms")),
        num(dcm("113736", "Exposure"), view.exposure, unit("uA.s")),
        num(dcm("113766", "Focal Spot Size"), Decimal("0.3"), unit("mm")),
        code(
            dcm("111632", "Anode Target Material"),
            sct("26194003", "Tungsten or Tungsten compound"),
        ),
        flat_filter(sct("59801003", "Rhodium or Rhodium compound"), Decimal("0.05")),
        code(dcm("111635", "X-Ray Grid"), dcm("111643", "Reciprocating grid")),
    ]


def mg_event(study: Study, number: int, view: View) -> Dataset:
    """One exposure (PS3.16 TID 10003, with TID 10003C for the compression)."""
    side = code(LATERALITY, view.side, relation=MODIFIER)
    return irradiation_event(
        event_uid(study, number),
        started(study.after(75 * number)),
        code(dcm("113721", "Irradiation Event Type"), STATIONARY),
        protocol("Sample mammography"),
        code(sct("91723000", "Anatomical structure"), BREAST, side),
        code(dcm("111031", "Image View"), view.projection),
        target(BREAST),
        num(dcm("111634", "Half Value Layer"), Decimal("0.53"), unit("mm")),
        num(dcm("111636", "Entrance Exposure at RP"), view.entrance, unit("mGy")),
        code(REFERENCE_POINT, dcm("113964", "At Surface of Patient")),
        *mg_source(view),
        num(dcm("111633", "Compression Thickness"), view.thickness, unit("mm")),
        num(dcm("111647", "Compression Force"), view.force, unit("N")),
        num(dcm("113750", "Distance Source to Detector"), 660, unit("mm")),
        irradiating_device(study),
    )


def mg_total(side: Code, breast: Code, views: tuple[View, ...]) -> Dataset:
    """The glandular dose of one breast (PS3.16 TID 10005)."""
    return num(
        dcm("111637", "Accumulated Average Glandular Dose"),
        sum((view.agd for view in views if view.side == side), Decimal(0)),
        unit("mGy"),
        code(LATERALITY, breast, relation=MODIFIER),
    )


def mg_report(study: Study) -> Dataset:
    """A mammography dose report (PS3.16 TID 10001)."""
    items = [
        *projection_head(study, MAMMOGRAPHY, None),
        accumulated(
            mg_total(LEFT, sct("80248007", "Left breast"), VIEWS),
            mg_total(RIGHT, sct("73056007", "Right breast"), VIEWS),
        ),
        *(mg_event(study, number, view) for number, view in enumerate(VIEWS, 1)),
        dose_source(),
    ]
    return dose_report(study, "10001", items)


# --- images --------------------------------------------------------------------------------------


def image(study: Study, sop_class: UID, modality: str, number: int) -> Dataset:
    """A tiny grey ramp, taken in its own second (PS3.3 C.7.6.1, C.7.6.3, C.8.11.3)."""
    out = instance(study, sop_class, modality, number)
    taken = study.after(30.25 * number)
    out.SeriesDate, out.SeriesTime = date_of(study.start), time_of(study.start)
    out.AcquisitionDate = out.ContentDate = date_of(taken)
    out.AcquisitionTime = out.ContentTime = time_of(taken)
    out.PresentationIntentType = "FOR PRESENTATION"
    out.ImageType = ["ORIGINAL", "PRIMARY"]
    out.AcquisitionContextSequence = []
    out.BurnedInAnnotation = "NO"
    out.LossyImageCompression = "00"

    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME2"
    out.Rows = out.Columns = IMAGE_SIDE
    out.BitsAllocated, out.BitsStored, out.HighBit = 16, 12, 11
    out.PixelRepresentation = 0
    out.PixelIntensityRelationship = "LOG"
    out.PixelIntensityRelationshipSign = -1
    out.RescaleIntercept, out.RescaleSlope, out.RescaleType = 0, 1, "US"
    out.PresentationLUTShape = "IDENTITY"
    out.WindowCenter, out.WindowWidth = 2048, 4096
    ramp = (64 * pixel for pixel in range(IMAGE_SIDE * IMAGE_SIDE))
    out.PixelData = b"".join(grey.to_bytes(2, "little") for grey in ramp)
    return out


def put_detector(out: Dataset, spacing: str) -> None:
    """The detector (PS3.3 C.8.11.4)."""
    out.DetectorType = "DIRECT"
    out.DetectorConfiguration = "AREA"
    out.DetectorID = "SAMPLE-DETECTOR"
    out.ImagerPixelSpacing = [spacing, spacing]


@dataclass(frozen=True)
class Exposure:
    """One plain radiograph."""

    view: Code
    position: str  # View Position, PS3.3 C.8.11.5
    orientation: tuple[str, str]
    kvp: int
    current: int  # mA
    time: int  # ms
    dap: Decimal  # dGy.cm2
    entrance: Decimal  # mGy
    index: int  # exposure index, IEC 62494-1


TARGET_INDEX = 320
FROM_BEHIND = sct("272479007", "postero-anterior")
FROM_THE_SIDE = sct("399067008", "lateral")
EXPOSURES = (
    Exposure(FROM_BEHIND, "PA", ("R", "F"), 120, 250, 8, Decimal("1.2"), Decimal("0.11"), 310),
    Exposure(FROM_THE_SIDE, "LL", ("A", "F"), 125, 250, 20, Decimal("3.4"), Decimal("0.42"), 340),
)


def dx_image(study: Study, number: int, exposure: Exposure) -> Dataset:
    """A radiograph of the chest (PS3.3 A.26; its dose is in C.8.7.8 and C.8.11.5)."""
    out = image(study, DX_FOR_PRESENTATION, "DX", number)
    put_detector(out, "0.143")
    out.SeriesDescription = out.ProtocolName = "Sample chest"
    out.BodyPartExamined = "CHEST"
    out.AnatomicRegionSequence = [CHEST.dataset()]
    out.ImageLaterality = "U"
    out.ViewPosition = exposure.position
    out.ViewCodeSequence = [exposure.view.dataset()]
    out.PatientOrientation = list(exposure.orientation)

    out.PositionerType = "COLUMN"
    out.KVP = exposure.kvp
    out.XRayTubeCurrent = exposure.current
    out.ExposureTime = exposure.time
    out.Exposure = exposure.current * exposure.time // 1000
    out.ExposureInuAs = exposure.current * exposure.time
    out.ImageAndFluoroscopyAreaDoseProduct = str(exposure.dap)
    out.EntranceDoseInmGy = str(exposure.entrance)
    out.ExposureIndex = exposure.index
    out.TargetExposureIndex = TARGET_INDEX
    out.DeviationIndex = f"{10 * log10(exposure.index / TARGET_INDEX):.1f}"
    out.ExposureControlMode = "AUTOMATIC"
    out.DistanceSourceToDetector = 1800
    out.DistanceSourceToPatient = 1550
    out.FocalSpots = "1.2"
    out.FilterType = "FLAT"
    out.FilterMaterial = "COPPER"
    out.FilterThicknessMinimum = out.FilterThicknessMaximum = "0.1"
    out.Grid = ["FIXED", "FOCUSED"]
    return out


def mammo_image(study: Study, number: int, view: View) -> Dataset:
    """A mammogram (PS3.3 A.27; its dose is in C.8.7.8 and C.8.11.7)."""
    out = image(study, MAMMO_FOR_PRESENTATION, "MG", number)
    put_detector(out, "0.07")
    right = view.side == RIGHT
    projection = view.projection.dataset()
    projection.ViewModifierCodeSequence = []
    out.SeriesDescription = out.ProtocolName = "Sample mammography"
    out.BodyPartExamined = "BREAST"
    out.OrganExposed = "BREAST"
    out.AnatomicRegionSequence = [BREAST.dataset()]
    out.ImageLaterality = "R" if right else "L"
    out.ViewCodeSequence = [projection]
    out.PatientOrientation = ["P", "L"] if right else ["A", "R"]
    out.BreastImplantPresent = "NO"

    out.PositionerType = "MAMMOGRAPHIC"
    out.PositionerPrimaryAngle = 0
    out.KVP = view.kvp
    out.XRayTubeCurrent = view.current
    out.ExposureTime = view.time
    out.Exposure = view.exposure // 1000
    out.ExposureInuAs = view.exposure
    out.OrganDose = str(view.agd / 100)  # dGy
    out.EntranceDoseInmGy = str(view.entrance)
    out.HalfValueLayer = "0.53"
    out.BodyPartThickness = view.thickness
    out.CompressionForce = view.force
    out.ExposureControlMode = "AUTOMATIC"
    out.DistanceSourceToDetector = 660
    out.DistanceSourceToEntrance = 600
    out.EstimatedRadiographicMagnificationFactor = "1.1"
    out.FocalSpots = "0.3"
    out.AnodeTargetMaterial = "TUNGSTEN"
    out.FilterType = "FLAT"
    out.FilterMaterial = "RHODIUM"
    out.Grid = ["RECIPROCATING", "FOCUSED"]
    return out


# --- what does not belong in a drop folder -------------------------------------------------------


NOTES = b"This is a text file in a folder for DICOM objects.\nIt has no more to say.\n"


def reading_report(study: Study) -> Dataset:
    """A report of findings: an Enhanced SR like many, with no dose in it (PS3.16 TID 2000)."""
    language = code(
        dcm("121049", "Language of Content Item and Descendants"),
        Code("en", "RFC5646", "English"),
        relation=MODIFIER,
    )
    items = [
        language,
        *device_observer(study),
        container(
            dcm("121070", "Findings"),
            text(dcm("121071", "Finding"), "A sample text, about nobody."),
        ),
    ]
    title = Code("18748-4", "LN", "Diagnostic Imaging Report")
    return report(study, ENHANCED_SR, title, "2000", items)


def whole_dose_report() -> bytes:
    """The CT dose report that ``truncated-dose-report.dcm`` is the beginning of."""
    return encoded(ct_report(CUT_SHORT))


def cut(whole: bytes) -> bytes:
    """What an interrupted transfer leaves, in its worst case.

    It ends where the last acquisition would begin, so lenient readers find two of three and no
    fault; only the lengths of the sequence (PS3.5 7.5.1) tell that something is missing.
    """
    item = b"\xfe\xff\x00\xe0"
    last_acquisition = whole.rindex(CT_ACQUISITION.value.encode())
    its_concept = whole.rindex(item, 0, last_acquisition)
    return whole[: whole.rindex(item, 0, its_concept)]


def files() -> Mapping[str, bytes]:
    """Every sample by its place below the folder."""
    dx_1, dx_2 = (dx_image(DX, number, exposure) for number, exposure in enumerate(EXPOSURES, 1))
    return {
        "sr/ct-dose-report.dcm": encoded(ct_report(CT)),
        "sr/fluoroscopy-dose-report.dcm": encoded(rf_report(RF)),
        "sr/mammography-dose-report.dcm": encoded(mg_report(MG_REPORT)),
        "sr/enhanced-sr-not-dose.dcm": encoded(reading_report(NOT_DOSE)),
        "sr/truncated-dose-report.dcm": cut(whole_dose_report()),
        "sr/notes.txt": NOTES,
        "dx/dx-1.dcm": encoded(dx_1),
        "dx/dx-2.dcm": encoded(dx_2),
        "mammo/mammo-left.dcm": encoded(mammo_image(MG_IMAGES, 1, LEFT_CC)),
        "mammo/mammo-right.dcm": encoded(mammo_image(MG_IMAGES, 2, RIGHT_CC)),
    }


def main() -> None:
    """Write every sample below the folder asked for."""
    parser = argparse.ArgumentParser(description="Make the synthetic sample objects.")
    here = Path(__file__).resolve().parent
    parser.add_argument("--into", type=Path, default=here, metavar="DIR", help="where to write")
    into: Path = parser.parse_args().into
    for name, octets in files().items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)


if __name__ == "__main__":
    main()
