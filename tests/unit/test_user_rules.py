"""`ingest.rules`: the user's rules come first, and none of them reaches what can't be read."""

import tempfile
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import FileDataset

from ingest import dicom, rules
from ingest.errors import Reason
from ingest.model import Decision, Header, Ignore, Import, Importer, Keep, Reject
from ingest.routing import route
from ingest.rules import Condition, Rule, Then, decide, keywords_of
from tests.objects import CT_REPORT, DX_IMAGE, variant
from tests.strategies import STORAGE, a_header, headers

DX = STORAGE + "1.1"


def a_rule(then: Then = Then.IGNORE, name: str = "rule", **match: str | tuple[str, ...]) -> Rule:
    """A rule by its conditions."""
    conditions = tuple(
        Condition(subject=subject, patterns=(one,) if isinstance(one, str) else one)
        for subject, one in match.items()
    )
    into = b"/kept" if then is Then.KEEP else None
    importer = Importer.RDSR if then is Then.IMPORT else None
    return Rule(name=name, conditions=conditions, then=then, importer=importer, into=into)


def is_taken(*values: str, pattern: str | tuple[str, ...]) -> bool:
    """Does a rule with this pattern take out an object whose station has these values?"""
    decision = decide(
        a_header(), [a_rule(StationName=pattern)], values=MappingProxyType({"StationName": values})
    )
    return isinstance(decision, Ignore)


@pytest.mark.parametrize(
    ("value", "pattern", "fits"),
    [
        ("CR85 Main", "CR85 Main", True),
        ("cr85 MAIN", "CR85 Main", True),
        ("CR85 Main 2", "CR85 Main", False),
        ("CR85 Main 2", "CR85 Main*", True),
        ("CR85", "CR?5", True),
        ("CR8", "CR[78]", True),
        ("CR9", "CR[78]", False),
        ("CR[78]", "CR[[]78]", True),
        ("STRASSE", "straße", True),
        ("", "", True),
        ("", "*", True),
        ("", "?*", False),
        ("x", "", False),
    ],
)
def test_a_value_is_compared_as_a_whole_whatever_its_case(
    value: str, pattern: str, fits: bool
) -> None:
    assert is_taken(value, pattern=pattern) == fits


def test_a_missing_element_is_as_an_empty_one() -> None:
    assert is_taken(pattern="")
    assert not is_taken(pattern="?*")


def test_of_several_values_one_must_fit_or_all_together() -> None:
    assert is_taken("1.0", "VixWin", pattern="vixwin")
    assert is_taken("1.0", "VixWin", pattern="1.0\\VixWin")
    assert not is_taken("1.0", "VixWin", pattern="1.0\\Vix")


def test_of_several_patterns_one_must_fit() -> None:
    assert is_taken("b", pattern=("a", "b"))
    assert not is_taken("c", pattern=("a", "b"))


def test_all_conditions_of_a_rule_must_hold() -> None:
    rule = a_rule(StationName="a", Modality="dx")
    for station, modality, fits in (("a", "DX", True), ("a", "CR", False), ("b", "DX", False)):
        values = {"StationName": (station,), "Modality": (modality,)}
        assert isinstance(decide(a_header(), [rule], values=values), Ignore) == fits


def test_the_first_rule_that_matches_decides() -> None:
    first, second = a_rule(name="first", drop="dx"), a_rule(Then.KEEP, name="second", drop="*")
    there = decide(a_header(), [first, second], drop="dx")
    elsewhere = decide(a_header(), [first, second], drop="sr")

    assert isinstance(there, Ignore)
    assert there.rule == "first"
    assert isinstance(elsewhere, Keep)
    assert (elsewhere.rule, elsewhere.into) == ("second", b"/kept")


@pytest.mark.parametrize(
    "name", ["Digital X-Ray Image Storage - For Presentation", "digital x-ray*", DX, "*.4.1.1.1.1"]
)
def test_a_sop_class_goes_by_its_name_or_uid(name: str) -> None:
    rule = a_rule(sop_class=name)

    assert isinstance(decide(a_header(sop_class_uid=DX), [rule]), Ignore)
    assert isinstance(decide(a_header(sop_class_uid=STORAGE + "1.2"), [rule]), Import)


def test_an_importer_is_that_of_the_built_in_routing() -> None:
    rule = a_rule(Then.QUARANTINE, importer="dx")

    decision = decide(a_header(sop_class_uid=DX), [rule])

    assert isinstance(decision, Reject)
    assert decision.reason is Reason.BY_RULE
    assert "rule" in decision.because
    none = decide(a_header(sop_class_uid=STORAGE + "2"), [a_rule(importer="none")])
    assert isinstance(none, Ignore)


def test_an_importer_may_be_chosen_but_must_be_able_to_read_it() -> None:
    rule = a_rule(Then.IMPORT, drop="*")

    decision = decide(a_header(sop_class_uid=STORAGE + "2"), [rule])

    assert decision == Import(importer=Importer.RDSR, because='rule "rule" says so', rule="rule")
    to_dx = Rule(name="rule", conditions=(), then=Then.IMPORT, importer=Importer.DX)
    without_time = decide(a_header(study_time=""), [to_dx])
    assert isinstance(without_time, Reject)
    assert without_time.reason is Reason.NO_STUDY_TIME


a_pattern = st.sampled_from(["*", "", "?*", "a", "*b*", "[", "[!a]", "**", "\\", "ä"]) | st.text(
    max_size=5
)
some_rules = st.lists(
    st.builds(
        Rule,
        name=st.just("rule"),
        conditions=st.lists(
            st.builds(
                Condition,
                subject=st.sampled_from(["drop", "importer", "sop_class", "PatientName", "KVP"]),
                patterns=st.lists(a_pattern, min_size=1, max_size=3).map(tuple),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        then=st.sampled_from(Then),
        importer=st.sampled_from(Importer),
        into=st.just(b"/kept"),
    ),
    max_size=4,
)
some_values = st.dictionaries(
    st.sampled_from(["PatientName", "KVP"]), st.lists(st.text(max_size=5), max_size=3).map(tuple)
)


@given(header=headers, chosen=some_rules, values=some_values, drop=st.text(max_size=5))
def test_every_object_has_one_decision_whatever_the_rules(
    header: Header, chosen: list[Rule], values: dict[str, tuple[str, ...]], drop: str
) -> None:
    def once() -> Decision:
        return decide(header, chosen, drop=drop, values=values)

    decision = once()

    assert once() == decision
    assert decision.because
    if not chosen:
        assert decision == route(header)
    if isinstance(decision, Ignore | Keep):
        assert decision.rule == "rule"
        assert {rule.then for rule in chosen} & {Then.IGNORE, Then.KEEP}


# -- what can't be read --------------------------------------------------------------------------


@given(cut=st.integers(0, len(CT_REPORT.read_bytes()) - 1), data=st.binary(max_size=200))
def test_no_rule_reaches_what_is_cut_or_no_object_at_all(cut: int, data: bytes) -> None:
    """It has no header to be asked about, and without one there is no ruling."""
    with tempfile.NamedTemporaryFile() as file:
        for content in (CT_REPORT.read_bytes()[:cut], data):
            Path(file.name).write_bytes(content)
            look = dicom.look(file.name, {"PatientName"})
            assert look.header is None
            assert not look.values


def test_a_ruling_is_on_the_version_that_was_read() -> None:
    look = dicom.look(DX_IMAGE)
    assert look.header is not None
    decision = decide(look.header, [a_rule(drop="*")])
    assert isinstance(decision, Ignore)

    ruling = rules.ruling(decision, look.header, look.snapshot)

    assert (ruling.snapshot, ruling.rule) == (look.snapshot, "rule")


# -- what they ask for ---------------------------------------------------------------------------


def test_what_rules_ask_for_is_read_and_never_shown(tmp_path: Path) -> None:
    def change(dataset: FileDataset) -> None:
        dataset.PatientName = "Physics^Test"
        dataset.SoftwareVersions = ["V1", "V2"]
        dataset.DeviceSerialNumber = ""
        dataset.KVP = "28"

    path = variant(DX_IMAGE, tmp_path / "x.dcm", change)
    keywords = keywords_of(
        [
            a_rule(PatientName="*", SoftwareVersions="*", drop="dx"),
            a_rule(DeviceSerialNumber="*", KVP="*", StationName="*", OperatorsName="*"),
        ]
    )
    assert "drop" not in keywords

    look = dicom.look(path, keywords)

    assert look.values["PatientName"] == ("Physics^Test",)
    assert look.values["SoftwareVersions"] == ("V1", "V2")
    assert look.values["DeviceSerialNumber"] in ((), ("",))
    assert look.values["KVP"] == ("28",)
    assert look.values["StationName"]
    assert look.values["OperatorsName"] == ()
    assert "Physics" not in repr(look)
    assert dicom.look(path).values == {}


# -- odd values ----------------------------------------------------------------------------------


def values_of(folder: Path, keyword: str, raw: bytes, charset: object = None) -> tuple[str, ...]:
    """What a rule is asked with, of an object with these very bytes as a value."""
    raw += b" " * (len(raw) % 2)
    stand_in = "Q" * len(raw)

    def change(dataset: FileDataset) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 100" if charset == "ISO_IR 999" else charset
        setattr(dataset, keyword, stand_in)

    path = variant(DX_IMAGE, folder / "odd.dcm", change)
    content = path.read_bytes()
    assert content.count(stand_in.encode()) == 1
    content = content.replace(stand_in.encode(), raw)
    if charset == "ISO_IR 999":  # pydicom would not write it
        content = content.replace(b"ISO_IR 100", b"ISO_IR 999")
    path.write_bytes(content)
    look = dicom.look(path, {keyword})
    assert look.header is not None
    return look.values[keyword]


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        (None, b"M\xfcller^Anna ", "Müller^Anna"),
        ("ISO_IR 192", "Müller".encode(), "Müller"),
        ("ISO 2022 IR 100", b"\x1b-AM\xfcller", "Müller"),
        ("GB18030", "俓^test".encode("gb18030"), "俓^test"),  # its second byte is a backslash
        ("GBK", "俓^test".encode("gbk"), "俓^test"),
        (["", "ISO 2022 IR 87"], b"Yamada=\x1b$B;3ED\x1b(B=", "Yamada=山田"),
        (["", "ISO 2022 IR 87"], b"\x1b$B%\\\x1b(B", "ボ"),
        (["", "ISO 2022 IR 149"], b"Hong=\x1b$)C\xfb\xf3", "Hong=洪"),
        ("ISO_IR 999", b"Physics", "Physics"),  # there is no such set
        ("", b"Physics\0", "Physics"),
    ],
)
def test_a_name_is_compared_whatever_its_character_set(
    tmp_path: Path, charset: object, raw: bytes, name: str
) -> None:
    """Half of a character must not pass for a value of its own: the wrong rule would match."""
    assert values_of(tmp_path, "PatientName", raw, charset) == (name,)


def test_what_is_too_long_to_be_read_is_not_empty(tmp_path: Path) -> None:
    """Else a rule for objects without a comment would have it deleted."""
    values = values_of(tmp_path, "ImageComments", b"a long story" * 2000)
    rules_ = {
        pattern: a_rule(ImageComments=pattern) for pattern in ("", "?*", "*story*", "????", "*")
    }
    taken = {
        pattern
        for pattern, rule in rules_.items()
        if isinstance(decide(a_header(), [rule], values={"ImageComments": values}), Ignore)
    }
    assert taken == {"?*", "*"}


def test_what_cannot_be_read_is_not_empty_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_of: object) -> str:
        raise RecursionError

    monkeypatch.setattr(dicom, "decode_bytes", fails)
    assert values_of(tmp_path, "PatientName", b"Physics") == (dicom.UNTOLD,)


def test_a_long_comment_is_compared_to_its_end(tmp_path: Path) -> None:
    values = values_of(tmp_path, "ImageComments", b"x" * 9000 + b" physics")
    assert [value[-7:] for value in values] == ["physics"]


def test_all_of_many_values_are_compared(tmp_path: Path) -> None:
    values = values_of(tmp_path, "SoftwareVersions", b"\\".join(b"V%d" % n for n in range(100)))
    assert values == tuple(f"V{n}" for n in range(100))


def test_a_name_that_says_another_vr_is_compared_as_a_name(tmp_path: Path) -> None:
    path = variant(
        DX_IMAGE, tmp_path / "x.dcm", lambda dataset: setattr(dataset, "PatientName", "Physics^Q")
    )
    content = path.read_bytes()
    as_name = b"\x10\0\x10\0PN\x0a\0Physics^Q "
    assert content.count(as_name) == 1
    for vr in (b"OB", b"UN"):
        path.write_bytes(
            content.replace(as_name, b"\x10\0\x10\0" + vr + b"\0\0\x0a\0\0\0Physics^Q ")
        )
        assert dicom.look(path, {"PatientName"}).values["PatientName"] == ("Physics^Q",)
