"""Rules made of OpenREM's Lua script for Orthanc decide as the script itself does, run for real."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lupa.lua53 import LuaError, LuaRuntime
from pydicom.filereader import read_partial

from ingest import config, dicom, lua, orthanc, parts, setup_file
from ingest.findings import Finding
from ingest.model import Decision, Header, Ignore, Import, Importer, Keep, Reject
from ingest.openrem.site import Site
from ingest.rules import Condition, Rule, Then, decide, keywords_of
from ingest.setup import Carried, NewDrop, NewRule, Setup, usual_drops
from tests.contract.orthanc_side import (
    OrthancScript,
    edited,
    listed,
    path_of,
    quoted,
    script_of,
)
from tests.strategies import STORAGE, TAILS

ORDINARY = {
    "SOPClassUID": STORAGE + "1.1",
    "Modality": "DX",
    "Manufacturer": "Maker",
    "ManufacturerModelName": "Model 1",
    "StationName": "ROOM3",
    "SoftwareVersions": "1.0",
    "DeviceSerialNumber": "4711",
    "PatientName": "Doe^Jane",
    "PatientID": "PID1",
    "StudyDate": "20240102",
}
TITLES = {STORAGE + "88.67": "113701", STORAGE + "88.22": "113701", STORAGE + "88.68": "113500"}
LISTS = {  # the script's own
    "Manufacturer": ("Faxitron X-Ray LLC", "Gendex-KaVo"),
    "ManufacturerModelName": ("CR 85", "CR 75", "CR 35", "CR 25", "ADC_5146", "CR975"),
    "StationName": ("CR85 Main", "CR75 Main"),
    "SoftwareVersions": ("VixWin Platinum v3.3",),
    "DeviceSerialNumber": ("SCB1312016",),
}
RECEIVED = ("SR", "CT", "MG", "CR", "DX", "PX", "PT", "NM", "XA", "RF")
MISSING = None


def tags(**changes: str | None) -> dict[str, str]:
    """An ordinary DX image with these changes; None takes an element away."""
    changed = ORDINARY | changes
    return {keyword: value for keyword, value in changed.items() if value is not None}


@dataclass(frozen=True)
class Ours:
    """Our decision by rules that were made of a script."""

    rules: Sequence[Rule]

    def outcome(self, found: dict[str, str], title: str | None = None) -> str:
        """The same words as the script's: an importer's name, physics, ignored, refused."""
        values = {keyword: tuple(value.split("\\")) for keyword, value in found.items()}
        sop_class = found.get("SOPClassUID", "")
        header = Header(
            sop_class_uid=sop_class,
            sop_instance_uid="1.2.3.1",
            study_uid="1.2.3",
            modality=values.get("Modality", ("",))[0],
            manufacturer=values.get("Manufacturer", ("",))[0],
            series_description=found.get("SeriesDescription", ""),
            image_type=values.get("ImageType", ()),
            title_code=TITLES.get(sop_class, "") if title is None else title,
            study_time="120000",
        )
        return word_for(decide(header, self.rules, drop="sr", values=values))


def word_for(decision: Decision) -> str:
    match decision:
        case Import(importer=importer):
            return importer.value
        case Keep():
            return "physics"
        case Ignore():
            return "ignored"
        case Reject():
            return "refused"


def carried(text: str) -> Carried:
    return orthanc.carry(lua.read(text), physics="/dose/physics")


def ours_of(text: str, folder: Path) -> Ours:
    """The whole way: read the script, write a configuration, and read that."""
    found = carried(text)
    written = Setup(
        state_dir="/state",
        python="/python",
        python_note="",
        drops=usual_drops("/dose"),
        rules=found.rules,
        quarantine="/dose/failed",
    )
    (folder / "c.toml").write_text(setup_file.text_of(written), encoding="utf-8")
    settings = config.load(folder / "c.toml")
    assert [told(rule) for rule in settings.rule] == [
        (rule.name, rule.match, rule.then, rule.into, rule.zip) for rule in found.rules
    ]
    return Ours(parts.rulebook_of(settings).rules)


def told(rule: config.Rule) -> tuple[object, ...]:
    return rule.name, tuple(rule.match.items()), rule.then, str(rule.into or ""), rule.zip


def at_once(rules: Sequence[NewRule]) -> Ours:
    """The same without a file, where there are many."""
    return Ours(
        [
            Rule(
                name=rule.name,
                conditions=tuple(Condition(subject=s, patterns=p) for s, p in rule.match),
                then=Then(rule.then.partition(":")[0]),
                importer=Importer(rule.then.partition(":")[2]) if ":" in rule.then else None,
                into=b"/x" if rule.into else None,
            )
            for rule in rules
        ]
    )


@pytest.fixture(scope="module")
def script(site: Site) -> OrthancScript:
    return OrthancScript(script_of(site))


@pytest.fixture(scope="module")
def ours(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return ours_of(script_of(site), tmp_path_factory.mktemp("ours"))


# -- the script's own lists ------------------------------------------------------------------------


def near(entry: str) -> Iterator[str]:
    """What is on the list, and what nearly is."""
    yield from (entry, entry.upper(), entry.lower(), entry.swapcase(), entry.title())
    yield from (entry + "x", "x" + entry, entry[:-1], entry[1:], entry + " 2", f"({entry})")
    yield from (entry.replace(" ", ""), entry.replace(" ", "  "), entry.replace("C", "K"))
    yield from (f"*{entry[1:]}", f"?{entry[1:]}", f"[{entry[0]}]{entry[1:]}", entry[::-1])


def listed_cases() -> Iterator[dict[str, str]]:
    for element, entries in LISTS.items():
        yield tags(**{element: MISSING})
        yield tags(**{element: ""})
        for entry in entries:
            for text in near(entry):
                yield tags(**{element: text})
            for other in LISTS:
                yield tags(**{other: entry})  # on the list of another element
    yield tags(**dict.fromkeys(LISTS, MISSING))
    yield tags(**{element: entries[0] for element, entries in LISTS.items()})


def physics_cases() -> Iterator[dict[str, str]]:
    text: str | None
    for element in ("PatientName", "PatientID"):
        other = {"PatientName": "PatientID", "PatientID": "PatientName"}[element]
        for text in (
            "physics",
            "PHYSICS",
            "Physics^Test",
            "QA^pHySiCs",
            "xphysicsx",
            "a physics b",
        ):
            yield tags(**{element: text})
            yield tags(**{element: text, other: MISSING})
            yield tags(**{element: text, other: text})
        for text in ("phys", "hysics", "phy sics", "physic", "phy*", "", MISSING):
            yield tags(**{element: text})
    yield tags(PatientName=MISSING, PatientID=MISSING)
    yield tags(StudyDescription="physics", StationName="physics")  # other elements don't count
    for element, entries in LISTS.items():  # physics comes first
        yield tags(PatientName="physics", **{element: entries[0]})
    for modality in (*RECEIVED, "MR", "OT", "US", "X", "XAX", "DXR", "", MISSING):
        yield tags(PatientID="physics", Modality=modality)
        yield tags(StationName="CR85 Main", Modality=modality)


def plain_cases() -> Iterator[dict[str, str]]:
    yield tags(SoftwareVersions="1.0\\2.0")
    yield tags(SoftwareVersions="VixWin\\Platinum v3.3")
    yield tags(SoftwareVersions="VixWin Platinum v3.3x\\2")
    yield tags(SoftwareVersions="1.0\\VixWin Platinum v3.3", DeviceSerialNumber="SCB1312016")


def test_the_scripts_own_lists_decide_as_the_script_does(script: OrthancScript, ours: Ours) -> None:
    outcomes = set()
    count = 0
    for case in (*listed_cases(), *physics_cases(), *plain_cases()):
        by_script = script.outcome(case)
        assert ours.outcome(case) == by_script, case
        outcomes.add(by_script)
        count += 1

    assert outcomes == {"physics", "ignored", "refused", "dx"}
    assert count > 300


# -- which importer --------------------------------------------------------------------------------


def reads(importer: str, case: dict[str, str], title: str) -> bool:
    """Does OpenREM's importer take this object? As its ``remapp.extractors`` do."""
    tail = case.get("SOPClassUID", "").removeprefix(STORAGE)
    match importer:
        case "rdsr":
            titles = {"88.67": "113701", "88.22": "113701", "88.68": "113500"}
            return tail in titles and titles[tail] == title
        case "mg":
            original = "ORIGINAL" in case.get("ImageType", "")
            return tail in {"1.2", "1.2.1"} or (
                tail == "7" and case.get("Modality") == "MG" and original
            )
        case "dx":
            return tail in {"1", "1.1", "1.1.1"}
        case "nm":
            return tail in {"20", "128"}
        case "ctphilips":
            is_dose_info = case.get("SeriesDescription") == "Dose Info"
            return tail == "7" and case.get("Manufacturer") == "Philips" and is_dose_info
        case _:
            return False


def test_another_importer_is_chosen_only_where_the_scripts_would_refuse(
    script: OrthancScript, ours: Ours
) -> None:
    """Each SOP class with each modality, makers that the script tells apart, and titles."""
    equal = different = 0
    for tail in TAILS:
        for modality in (*RECEIVED, "MR", "XX", "", MISSING):
            for extra in (
                {},
                {"Manufacturer": "Philips", "SeriesDescription": "Dose Info"},
                {"Manufacturer": "PHILIPS Medical", "SeriesDescription": "Dose Info"},
                {"Manufacturer": MISSING, "ImageType": "ORIGINAL\\PRIMARY"},
            ):
                changes = {"SOPClassUID": STORAGE + tail, "Modality": modality, **extra}
                case = tags(**changes)
                for title in dict.fromkeys((TITLES.get(STORAGE + tail, ""), "121181")):
                    by_script, by_us = script.outcome(case), ours.outcome(case, title)
                    if by_script == by_us:
                        equal += 1
                        continue
                    different += 1
                    assert not reads(by_script, case, title), (case, title)
                    assert by_us == "refused" or reads(by_us, case, title), (case, title)
                    assert modality in RECEIVED
    assert equal > 1000
    assert different > 100


@dataclass(frozen=True)
class Differs:
    """A case in which we differ on purpose."""

    because: str
    script: str
    ours: str
    case: dict[str, str]
    title: str = ""


DIFFERENT = [
    Differs(
        "OpenREM's importer of dose reports refuses a report without a dose title",
        "rdsr",
        "refused",
        tags(SOPClassUID=STORAGE + "88.22", Modality="SR"),
        title="121181",
    ),
    Differs(
        "OpenREM's importer of mammograms refuses tomosynthesis",
        "mg",
        "refused",
        tags(SOPClassUID=STORAGE + "13.1.3", Modality="MG"),
    ),
    Differs(
        "OpenREM's importer of mammograms refuses a secondary capture that is not original",
        "mg",
        "refused",
        tags(SOPClassUID=STORAGE + "7", Modality="MG", ImageType="DERIVED\\SECONDARY"),
    ),
    Differs(
        "OpenREM's importer of radiographs refuses a secondary capture",
        "dx",
        "refused",
        tags(SOPClassUID=STORAGE + "7", Modality="CR"),
    ),
    Differs(
        "OpenREM's importer of nuclear medicine refuses an Enhanced PET image",
        "nm",
        "refused",
        tags(SOPClassUID=STORAGE + "130", Modality="PT"),
    ),
    Differs(
        "OpenREM's importer wants the maker to be exactly Philips",
        "ctphilips",
        "refused",
        tags(
            SOPClassUID=STORAGE + "7",
            Modality="CT",
            Manufacturer="Philips Medical Systems",
            SeriesDescription="Dose Info",
        ),
    ),
    Differs(
        "the SOP class says what it is: the script's choice would refuse it",
        "mg",
        "dx",
        tags(SOPClassUID=STORAGE + "1.1.1", Modality="MG"),
    ),
    Differs(
        "the SOP class says what it is: the script deletes a DX image of modality RF",
        "refused",
        "dx",
        tags(SOPClassUID=STORAGE + "1.1", Modality="RF"),
    ),
    Differs(
        "one of several software versions is on the list: set aside for a look",
        "dx",
        "refused",
        tags(SoftwareVersions="1.0\\VIXWIN Platinum v3.3"),
    ),
]


@pytest.mark.parametrize("tail", ["2", "7"])  # slices, and the dose screen among them
@pytest.mark.parametrize(
    ("maker", "model", "word"),
    [
        ("TOSHIBA", "Aquilion", "cttoshiba"),
        ("ge medical systems", "DISCOVERY STE", "cttoshiba"),
        ("TOSHIBA", "Aquilion ONE", "refused"),
        ("TOSHIBA", "Discovery STE", "refused"),
    ],
)
def test_ct_images_of_the_listed_systems_go_to_the_toshiba_extractor(
    script: OrthancScript, ours: Ours, tail: str, maker: str, model: str, word: str
) -> None:
    case = tags(
        SOPClassUID=STORAGE + tail, Modality="CT", Manufacturer=maker, ManufacturerModelName=model
    )
    assert script.outcome(case) == ours.outcome(case) == word


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: row.because)
def test_where_we_differ_from_the_script_on_purpose(
    script: OrthancScript, ours: Ours, row: Differs
) -> None:
    """A row that no longer differs has to be taken out, here and in the README."""
    assert script.outcome(row.case) == row.script
    assert ours.outcome(row.case, row.title) == row.ours
    assert row.script != row.ours


def test_letters_beyond_a_to_z_are_compared_without_their_case(site: Site, tmp_path: Path) -> None:
    """On purpose: Lua knows capitals of ASCII only, and so ignores fewer objects."""
    text = edited(script_of(site), station_names_to_ignore=listed("Röntgen 1"))
    case = tags(StationName="RÖNTGEN 1")

    assert OrthancScript(text).outcome(case) == "dx"
    assert ours_of(text, tmp_path).outcome(case) == "ignored"


# -- real objects ----------------------------------------------------------------------------------


def simplified_tags(path: Path) -> dict[str, str]:
    """The elements of an object as Orthanc shows them to its scripts."""
    with path.open("rb") as file:
        found = read_partial(file, stop_when=lambda tag, _vr, _length: tag > 0x0020_000E)
    wanted = {*ORDINARY, "SeriesDescription", "ImageType"}
    result = {}
    for keyword in wanted & set(found.dir()):
        value = found[keyword].value
        values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
        result[keyword] = "\\".join("" if one is None else str(one) for one in values).strip()
    return result


def test_the_65_objects_of_openrems_own_tests(
    script: OrthancScript, ours: Ours, corpus: dict[str, Path]
) -> None:
    """Read by us as the service reads them, and as Orthanc shows them to the script."""
    different = {}
    outcomes: dict[str, int] = {}
    for name, path in corpus.items():
        look = dicom.look(path, keywords_of(ours.rules))
        assert look.header is not None
        by_us = word_for(decide(look.header, ours.rules, drop="sr", values=look.values))
        by_script = script.outcome(simplified_tags(path))
        outcomes[by_script] = outcomes.get(by_script, 0) + 1
        if by_us != by_script:
            different[name] = (by_script, by_us)

    assert different == {"ESR_non-dose.dcm": ("rdsr", "refused")}
    assert sum(outcomes.values()) == 65
    assert len(outcomes) >= 5


# -- as sites edit it ------------------------------------------------------------------------------


def test_the_windows_form_decides_as_the_linux_form(site: Site, tmp_path: Path, ours: Ours) -> None:
    """Only the folder and the interpreter have to be filled in."""
    found = carried(script_of(site, "windows"))

    assert [one.name for one in ours_of(script_of(site, "windows"), tmp_path).rules] == [
        one.name for one in ours.rules
    ]
    assert {rule.into for rule in found.rules if rule.into} == {"/dose/physics"}
    assert found.python == ""
    assert any(r"E:\\venv\\Scripts\\python.exe" in one.what for one in found.lost)
    assert any(r"E:\\orthanc\\physics" in one.what for one in found.lost)


def test_nothing_else_is_told_of_the_scripts_that_openrem_ships(site: Site) -> None:
    """Neither form seems changed."""
    for system, count in (("linux", 0), ("windows", 2)):
        text = path_of(site, system).read_bytes().decode()  # with its own line ends
        assert len(lost_of(text)) == count, [one.what for one in lost_of(text)]


EDITS: dict[str, dict[str, str]] = {
    "signs that mean something to a rule": {
        "station_names_to_ignore": listed("CR[85]", "A*B", "Q?", "]x[", "!a", "[!a]", "a-z"),
        "model_names_to_ignore": listed("*", "?"),
    },
    "a list of versions": {
        "software_versions_to_ignore": listed("A\\B", "A", "C"),
    },
    "numbers without quotes": {
        "device_serial_numbers_to_ignore": "{12345, 0x10, -7}",
        "physics_to_keep": "{ 99 }",
    },
    "empty lists": {
        "manufacturers_to_ignore": "{}",
        "physics_to_keep": "{  }",
    },
    "other quotes, comments, a comma too many": {
        "manufacturers_to_ignore": '{ "Maker A", -- not wanted\n [[Maker B]]; [==[Maker]]C]==], }',
        "physics_to_keep": "{'qa', \"phantom\",}",
    },
    "anchors and signs that are escaped": {
        "physics_to_keep": listed(
            "^test", "qa$", "^all$", "a%-b", "100%%", "x^y", "$z", "["
        ).replace(quoted("["), quoted("%[")),
    },
    "nothing is physics": {"use_physics_filtering": "false"},
    "nothing is physics, by mistake": {"use_physics_filtering": "'true'"},
    "no Toshiba": {"use_toshiba_ct_extractor": "false"},
    "letters of other alphabets": {"station_names_to_ignore": listed("Röntgen 1", "骨")},
}
TEXTS = (
    *("physics", "Physics^QA"),
    *("cr[85]", "CR8", "A*B", "AxB", "Q?", "Qx", "]x[", "x", "!a", "b", "[!a]", "a-z", "m", "*"),
    *("?", "A\\B", "A", "B", "C", "A\\C", "A\\B\\C", "12345", "16", "0x10", "-7", "99", "1999"),
    *("maker a", "Maker B", "MAKER]]C", "Maker", "qa", "QA^Phantom", "xqa", "qax", "test", "TEST1"),
    *(
        "a test",
        "all",
        "all1",
        "1all",
        "a-b",
        "ab",
        "aab",
        "100%",
        "100%%",
        "x^y",
        "xy",
        "$z",
        "z$",
    ),
    *("[", "z", "Röntgen 1", "röntgen 1", "骨", "骨骨"),
)
# An element of several values, one of which is on a list: see DIFFERENT.
ONE_OF_SEVERAL = {("a list of versions", "SoftwareVersions", text) for text in ("A\\C", "A\\B\\C")}


@pytest.mark.parametrize("name", EDITS)
def test_a_script_as_a_site_has_edited_it(site: Site, tmp_path: Path, name: str) -> None:
    text = edited(script_of(site), **EDITS[name])
    script, ours = OrthancScript(text), ours_of(text, tmp_path)
    ignored = {element: ORDINARY[element] for element in LISTS}
    outcomes = set()
    for element in ("PatientName", "PatientID", *ignored):
        for value in TEXTS:
            if "\\" in value and element != "SoftwareVersions":
                continue
            case = tags(**{element: value})
            by_script = script.outcome(case)
            if (name, element, value) in ONE_OF_SEVERAL:
                assert (by_script, ours.outcome(case)) == ("dx", "refused"), case
                continue
            assert ours.outcome(case) == by_script, case
            outcomes.add(by_script)

    assert "dx" in outcomes


SPECIAL = "[]*?!-\\^$%.()+'\" aAbBsSkKxX09"
names = st.text(st.sampled_from(SPECIAL), min_size=1, max_size=6).map(str.strip).filter(bool)


@given(entries=st.lists(names, max_size=3), value=names | st.just(""), pick=st.integers(0, 5))
@example(entries=["[a]"], value="a", pick=5)
def test_any_list_ignores_what_the_script_ignores(
    site: Site, entries: list[str], value: str, pick: int
) -> None:
    """Names with every sign that means something to a rule, to Lua, or to TOML."""
    value = entries[pick].swapcase() if pick < len(entries) else value
    value = value.replace("\\", "/")  # which stands between several values
    text = edited(script_of(site), station_names_to_ignore=listed(*entries))
    case = tags(StationName=value)

    assert at_once(carried(text).rules).outcome(case) == OrthancScript(text).outcome(case)


LUA = LuaRuntime(register_eval=False)
found_by_lua: Callable[[str, str], bool] = LUA.eval(
    "function(text, pattern) return string.match(string.lower(text), string.lower(pattern)) ~= nil "
    "end"
)
patterns = st.text(st.sampled_from("ab^$%.-*[]?+()A _!"), min_size=1, max_size=5)


@given(pattern=patterns, text=st.text(st.sampled_from("abAB^$%.-*[]?+()! _"), max_size=8))
@example(pattern="^a$", text="a")
@example(pattern="%$", text="a$b")
@example(pattern="^$", text="")
@example(pattern="a%", text="a%")
def test_a_pattern_is_carried_over_exactly_or_not_at_all(pattern: str, text: str) -> None:
    glob = orthanc.glob_of(pattern)
    if glob is None:
        assert set(pattern) & set("%.-*[?+()^$")
        return
    condition = Condition(subject="PatientName", patterns=(glob,))

    assert condition.holds([text]) == found_by_lua(text, pattern)


@given(
    words=st.sets(st.text(st.sampled_from("ABCDR"), min_size=1, max_size=3), min_size=1),
    text=st.text(st.sampled_from("ABCDRXabr0 "), max_size=5),
)
def test_all_but_some_words(words: set[str], text: str) -> None:
    condition = Condition(subject="Modality", patterns=orthanc.all_but(words))

    assert condition.holds([text]) == (text.upper() not in words)
    assert all(not condition.holds([word]) for word in words)


# -- what can't be carried over --------------------------------------------------------------------


def lost_of(text: str) -> list[Finding]:
    """What is told beyond what is told of the script as it is."""
    return list(carried(text).lost)


@pytest.mark.parametrize(
    "text", ["QA-test", "phys.*", "[Pp]hysics", "%a+", "test?", "(x)", "a%", "^", "$", ""]
)
def test_a_pattern_that_no_rule_can_say_is_told(site: Site, text: str) -> None:
    """And the others of its list are carried over."""
    found = carried(edited(script_of(site), physics_to_keep=listed(text, "phantom")))

    (lost,) = [one for one in found.lost if one.what.startswith("physics_to_keep (line ")]
    assert repr(text) in lost.what
    assert lost.next
    assert [rule.match for rule in found.rules if rule.then == "keep"] == [
        (("PatientName", ("*phantom*",)),),
        (("PatientID", ("*phantom*",)),),
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("station_names_to_ignore", "{'a', 'b' .. 'c'}", "expression"),
        ("station_names_to_ignore", "os.getenv('STATIONS')", "expression or a call"),
        ("station_names_to_ignore", "{['a'] = true}", "keys"),
        ("station_names_to_ignore", "{name = 'a'}", "keys"),
        ("station_names_to_ignore", "'CR85'", "no list"),
        ("station_names_to_ignore", "{'a', 2.5}", "no text"),
        ("station_names_to_ignore", "{'E:\\dose'}", "backslash"),
        ("station_names_to_ignore", "{''}", "empty"),
        ("physics_to_keep_folder", "'E:\\\\orthanc\\\\physics'", "no folder"),
        ("physics_to_keep_folder", "nil", "no folder"),
        ("python_executable", "'python.exe'", "no path"),
        ("use_postgres", "false", "PostgreSQL"),
    ],
)
def test_what_is_not_carried_over_is_told_with_its_line(
    site: Site, name: str, value: str, words: str
) -> None:
    text = edited(script_of(site), **{name: value})
    line = 1 + text[: text.index(f"local {name}")].count("\n")

    (lost,) = lost_of(text)
    assert words in f"{lost.what} {lost.why}"
    assert re.search(rf"\bline {line}\b", lost.what)
    assert name in lost.what
    assert lost.next


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("(mod ~= 'SR') and ", "", ""),  # another modality refused: a rule, and nothing lost
        ("(mod ~= 'SR')", "(mod == nil)", "ReceivedInstanceFilter"),
        ("     local mod = dicom.Modality", "     if true then return true end", "ReceivedInst"),
        ("== 'MG' then", "== 'XC' then", "OnStoredInstance"),
        ("print('Zipping", "printf('Zipping", "OnStableStudy"),
        ("\nfunction ToAscii", "\ntable.insert(physics_to_keep, 1)\nfunction ToAscii", "to do"),
        ("function OnStableStudy", "function Other", "no function OnStableStudy"),
    ],
)
def test_a_function_that_was_changed_is_told_of(site: Site, old: str, new: str, words: str) -> None:
    """The rules are made of the settings; what else decides, we can't know."""
    text = script_of(site)
    assert text.count(old) >= 1

    found = lost_of(text.replace(old, new, 1))
    assert len(found) == bool(words)
    assert words in " ".join(one.what for one in found)


def test_other_modalities_that_are_received_make_another_rule(site: Site, tmp_path: Path) -> None:
    text = script_of(site).replace("(mod ~= 'XA')", "(mod ~= 'OT') and (mod ~= 'XX')")
    script, ours = OrthancScript(text), ours_of(text, tmp_path)

    for modality in ("XX", "XA", "OT", "DX", "ot", MISSING):
        case = tags(Modality=modality, PatientID="physics")
        if modality != "ot":  # letters in lower case are against the standard (PS3.5, CS)
            assert ours.outcome(case) == script.outcome(case), modality


def test_toshiba_pairs_become_rules(site: Site) -> None:
    text = edited(script_of(site), toshiba_extractor_systems="{{'GE [x]', 'STE'}, {'a'}}")
    found = carried(text)
    last = found.rules[-1]
    assert last.then == "import:cttoshiba"
    assert ("Manufacturer", ("GE [[]x]",)) in last.match
    assert [one.what for one in found.lost] == [
        "toshiba_extractor_systems (line 62): ('a',) is no pair of a make and a model"
    ]


def rule_told(found: Carried) -> str:
    """The rule that a site may copy if it doesn't want images that OpenREM can't read."""
    (told,) = [one for one in found.told if "that OpenREM can't read go to quarantine" in one.what]
    words, _, rule = told.next.partition("\n")
    assert "behind all other rules" in words
    return rule


def test_images_that_the_script_deletes_fill_the_quarantine_unless_a_rule_is_copied(
    site: Site, tmp_path: Path
) -> None:
    text = edited(script_of(site), use_toshiba_ct_extractor="false")
    (tmp_path / "rule.toml").write_text(
        "[openrem]\npython = '/python'\n[[drop]]\npath = '/dose/sr'\n" + rule_told(carried(text))
    )
    (rule,) = parts.rulebook_of(config.load(tmp_path / "rule.toml")).rules
    script, ours = OrthancScript(text), ours_of(text, tmp_path)
    with_it = Ours((*ours.rules, rule))
    dose_info = {"Manufacturer": "Philips", "SeriesDescription": "Dose Info"}
    ignored = 0
    for tail, modality in (("2", "CT"), ("7", "CT"), ("12.1", "XA"), ("12.2", "RF"), ("1.1", "RF")):
        for extra in ({}, dose_info, {"PatientName": "physics"}):
            case = tags(SOPClassUID=STORAGE + tail, Modality=modality, **extra)
            before, after = ours.outcome(case), with_it.outcome(case)
            if before == "refused":
                assert (script.outcome(case), after) == ("refused", "ignored"), case
                ignored += 1
            else:
                assert after == before, case
    assert ignored == 7


def test_the_rule_that_may_be_copied_is_of_the_modalities_that_come_in(site: Site) -> None:
    text = edited(script_of(site), use_toshiba_ct_extractor="false")
    assert '["CT", "XA", "RF"]' in rule_told(carried(text))
    assert '["CT"]' in rule_told(carried(text.replace("(mod ~= 'SR')", "(mod == nil)")))
    few = text.replace("(mod ~= 'CT') and ", "").replace(" and (mod ~= 'XA') and (mod ~= 'RF')", "")
    assert not any("go to quarantine;" in one.what for one in carried(few).told)
    assert any("gathered study by study" in one.what for one in carried(script_of(site)).told)


# -- in the script's place -------------------------------------------------------------------------


class HandingOver:
    """Orthanc as it runs our own script: played, but its files are real."""

    def __init__(self, text: str, tags_of: dict[str, str]) -> None:
        self._lua = lua_of = LuaRuntime(
            register_eval=False, register_builtins=False, encoding="latin-1"
        )
        self.deleted: list[str] = []
        self.content = bytes(range(256)).decode("latin-1")
        self._world = lua_of.globals()
        self._world.ParseJson = lambda found: found
        self._world.RestApiGet = lambda path: (
            lua_of.table_from(tags_of) if path.endswith("/simplified-tags") else self.content
        )
        self._world.Delete = self.deleted.append
        lua_of.execute(text.encode())  # as the file that it is

    def receives(self, tags_of: dict[str, str]) -> bool:
        """Does Orthanc let such an object in?"""
        return bool(self._world.ReceivedInstanceFilter(self._lua.table_from(tags_of)))

    def store(self) -> None:
        """An object has been received."""
        self._world.OnStoredInstance("an-id")


@pytest.mark.parametrize(
    ("modality", "name"),
    [("MG", "mammo"), ("CR", "dx"), ("PX", "dx"), ("PT", "nm"), ("SR", "sr"), ("CT", "sr")],
)
def test_our_script_for_orthanc_puts_each_object_into_its_folder(
    tmp_path: Path, modality: str, name: str
) -> None:
    drops = usual_drops(str(tmp_path / "it's a \\ ö\n\x1b7"))
    for drop in drops:
        Path(drop.path).mkdir(parents=True)
    text = orthanc.hand_over(drops)
    assert all(line.isprintable() for line in text.split("\n"))
    script = HandingOver(text, {"Modality": modality})

    script.store()
    (found,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert (found.parent.name, found.name) == (name, "an-id.dcm")
    assert found.read_bytes() == bytes(range(256))
    assert script.deleted == ["an-id"]


def test_our_script_has_orthanc_let_in_what_openrems_script_lets_in(
    site: Site, script: OrthancScript
) -> None:
    """Else all that is sent to Orthanc would be stored, and set aside one by one."""
    received = carried(script_of(site)).received
    text = orthanc.hand_over(usual_drops("/dose"), received)
    answers = set()
    for modality in (*RECEIVED, "MR", "US", "OT", "X", "sr", "", MISSING):
        found = tags(Modality=modality)
        is_received = HandingOver(text, {}).receives(found)
        assert is_received == script.receives(found), modality
        answers.add(is_received)

    assert answers == {True, False}
    assert "ReceivedInstanceFilter" not in orthanc.hand_over(usual_drops("/dose"))


def test_what_our_script_can_t_write_stays_in_orthanc(tmp_path: Path) -> None:
    """Its folder is missing."""
    script = HandingOver(orthanc.hand_over(usual_drops(str(tmp_path / "gone"))), {})

    with pytest.raises(LuaError, match="No such file"):
        script.store()
    assert script.deleted == []


def test_what_our_script_can_t_name_as_it_should_stays_in_orthanc(tmp_path: Path) -> None:
    drops = (NewDrop(path=str(tmp_path)),)
    (tmp_path / "an-id.dcm").mkdir()
    script = HandingOver(orthanc.hand_over(drops), {})

    with pytest.raises(LuaError, match="directory"):
        script.store()
    assert script.deleted == []


def test_a_single_folder_takes_all() -> None:
    text = orthanc.hand_over((NewDrop(path="/dose/all"),))

    assert "local other = '/dose/all'" in text
    assert "MG" not in text
