"""What OpenREM's Lua script for Orthanc decides, said in rules of ours.

The script (OpenREM ``sample-config/openrem_orthanc_config_*.lua``) asks in this order: does it
receive the modality at all; is it a physics test; is it on one of the lists of what to ignore. The
rules keep that order. What comes after that in the script, which importer gets an object, the
built-in routing does, by what OpenREM really reads.

A rule is made only where it decides as the script does. All else is listed with its reason.
"""

import glob
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence

from ingest.findings import Finding, note, warning
from ingest.lua import Function, Script, Setting, Value
from ingest.model import Importer
from ingest.setup import BY_MODALITY, Carried, NewDrop, NewRule, is_path_here

RECEIVED = "modality that OpenREM's Orthanc script does not receive"

# Each list of what to ignore, the element that it is compared with, and how its rule is called.
# The order makes no difference, but that the last needs a rule beside it which ignores nothing.
_IGNORED = (
    ("manufacturers_to_ignore", "Manufacturer", "ignored manufacturers"),
    ("model_names_to_ignore", "ManufacturerModelName", "ignored models"),
    ("station_names_to_ignore", "StationName", "ignored stations"),
    ("device_serial_numbers_to_ignore", "DeviceSerialNumber", "ignored serial numbers"),
    ("software_versions_to_ignore", "SoftwareVersions", "ignored software versions"),
)
# Settings without a counterpart: Python makes the folders and zip files.
_NOT_NEEDED = frozenset(
    {"python_scripts_path", "temp_path", "mkdir_cmd", "dir_sep", "rmdir_cmd", "zip_executable"}
    | {"use_windows_execute"}
)
_KNOWN = _NOT_NEEDED | {
    *(name for name, _element, _rule in _IGNORED),
    *("python_executable", "use_physics_filtering", "physics_to_keep", "physics_to_keep_folder"),
    *("use_postgres", "use_toshiba_ct_extractor", "toshiba_extractor_systems"),
}
_SEVERAL = "SoftwareVersions"  # the only one of these elements that may have several values (PS3.6)

# SHA-256 of the words of the functions that OpenREM 1.0.0b3 ships, for Linux and for Windows.
_SHIPPED = {
    "ToAscii": ("2c2f976efba906a0d302f242c5abd39a115210bb07e3386e8f2ab3b82e981281",),
    "OnStoredInstance": (
        "7b03dd3e4d966fa6561b59ac0bdfb7722942766b8c7204ed75a86853786d8cda",
        "87dfe3de569cfe6f2a95445ec548ce13b3eca647d220b9128ef73830f57e0f28",
    ),
    "OnStableStudy": ("8a18248a10893dc053a4f1a51259b60bce03273917b282df585f5bf3f35762ee",),
}
_FILTER = "ReceivedInstanceFilter"
_FILTER_FORM = re.compile(
    r"function ReceivedInstanceFilter \( dicom \) local mod = dicom \. Modality "
    r'if ((?:\( mod ~= "[A-Z0-9]+" \) and )*\( mod ~= "[A-Z0-9]+" \)) '
    r"then return false else return true end end"
)


_FILTERED = """
function ReceivedInstanceFilter(dicom)
  return received[dicom.Modality] == true
end""".splitlines()
_HAND_OVER = """
function OnStoredInstance(id)
  local tags = ParseJson(RestApiGet('/instances/' .. id .. '/simplified-tags'))
  local path = (folders[tags.Modality] or other) .. '/' .. id
  local file = assert(io.open(path .. '.part', 'wb'))
  assert(file:write(RestApiGet('/instances/' .. id .. '/file')))
  assert(file:close())
  assert(os.rename(path .. '.part', path .. '.dcm'))
  Delete(id)
end""".splitlines()

_MAGIC = frozenset(".[*+-?()")  # of Lua's patterns, beside %, and ^ and $ at the ends


def carry(script: Script, *, physics: str) -> Carried:
    """Rules that decide as the script does.

    Args:
        script: OpenREM's, with the settings of the site.
        physics: where physics tests are to go if the script names no folder of this machine.
    """
    carrier = _Carrier(script, physics)
    rules = (
        *carrier.reception(),
        *carrier.physics_tests(),
        *carrier.ignored(),
        *carrier.toshiba(),
    )
    carrier.tell_of_images()
    carrier.tell_of_the_rest()
    return Carried(
        python=carrier.python(),
        rules=rules,
        lost=tuple(carrier.lost),
        told=tuple(carrier.told),
        received=carrier.received,
    )


class _Carrier:
    """Makes the rules, and notes what can't be made one."""

    def __init__(self, script: Script, physics: str) -> None:
        self._script = script
        self._physics = physics
        self.lost: list[Finding] = []
        self.told: list[Finding] = []
        self.received: tuple[str, ...] = ()

    def python(self) -> str:
        setting = self._script.settings.get("python_executable")
        path = setting.value if setting is not None else None
        if isinstance(path, str) and is_path_here(path):
            return path
        if setting is not None:
            self._lose(
                f"{_at(setting)} is no path on this machine: {setting.value!r}",
                "it is how OpenREM is called",
                'fill in python = "…" under [openrem], unless it was found',
            )
        return ""

    def reception(self) -> Iterator[NewRule]:
        """The modalities that the script refuses before it looks at anything else."""
        function = self._script.functions.get(_FILTER)
        if function is None:
            self.told.append(note(f"the script has no {_FILTER}", "no modality is refused by it"))
            return
        match = _FILTER_FORM.fullmatch(" ".join(function.words))
        if match is None:
            self._lose(
                f"{_where(function)} is not as OpenREM ships it",
                "no rule was made of it: what it refuses will be imported if OpenREM reads it",
                "put that function as it is into the script for Orthanc that init prints, which "
                "lets all in; and write a [[rule]] on Modality",
            )
            return
        self.received = tuple(re.findall(r'"(\w+)"', match[1]))
        yield NewRule(
            name=RECEIVED,
            match=(("Modality", all_but(self.received)),),
            then="quarantine",
            why=f"All but {', '.join(self.received)}: Orthanc is to refuse the others.",
        )

    def physics_tests(self) -> Iterator[NewRule]:
        if not self._is_on("use_physics_filtering", "physics tests are not filtered out"):
            return
        patterns = tuple(self._physics_patterns())
        if not patterns:
            return
        folder = self._physics_folder()
        for element, by in (("PatientName", "name"), ("PatientID", "ID")):
            yield NewRule(
                name=f"physics tests by {by}",
                match=((element, patterns),),
                then="keep",
                into=folder,
                zip=True,
                why=f"The script keeps what has one of these in its {element}.",
            )
        self.told.append(
            note(
                f"physics tests are kept as {folder}/<Study Date>/<Study Instance UID>.zip",
                "the script names the zip file by the patient",
            )
        )

    def _physics_patterns(self) -> Iterator[str]:
        for text, line in self._texts("physics_to_keep"):
            pattern = glob_of(text)
            if pattern is not None:
                yield pattern
                continue
            if not text:
                why, step = "an empty text is in every name: it would keep all objects", "remove it"
            else:
                why = (
                    "to Lua it is a pattern, which a rule can't say exactly; such objects would "
                    "be imported"
                )
                step = (
                    f"if the text itself is meant, add {'*' + glob.escape(text) + '*'!r} to both "
                    "rules on physics tests (and make them, if there are none)"
                )
            self._lose(f"physics_to_keep (line {line}): {text!r} is not carried over", why, step)

    def _physics_folder(self) -> str:
        setting = self._script.settings.get("physics_to_keep_folder")
        folder = setting.value if setting is not None else None
        if isinstance(folder, str) and is_path_here(folder):
            return os.path.normpath(folder)
        what = f"{_at(setting)}: {folder!r}" if setting is not None else "physics_to_keep_folder"
        self._lose(
            f"{what} is no folder on this machine",
            f"physics tests go to {self._physics} instead",
            "fill in the folder as `into` of the rules on physics tests",
        )
        return self._physics

    def ignored(self) -> Iterator[NewRule]:
        """The lists, each a rule: equal as a whole, whatever the case."""
        for name, element, rule in _IGNORED:
            texts = tuple(text for text, _line in self._nonempty(name))
            why = f"{name} of the script."
            if element == _SEVERAL:
                yield from self._several(element, rule, texts, why)
            elif texts:
                yield _ignore(rule, element, texts, why)

    def _several(
        self, element: str, rule: str, texts: tuple[str, ...], why: str
    ) -> Iterator[NewRule]:
        r"""Of several values we compare each, the script all of them with ``\`` between.

        What the script would import because another value stands beside is set aside: to delete
        it would be wrong, and no rule can say "as if this one were not there".
        """
        lists = tuple(text for text in texts if "\\" in text)
        plain = tuple(text for text in texts if "\\" not in text)
        if lists:
            yield _ignore(f"{rule} (lists)", element, lists, f"{why} Lists are compared as one.")
        if plain:
            yield NewRule(
                name=f"{rule} beside others",
                match=((element, tuple(_beside_others(plain))),),
                then="quarantine",
                why="The script compares a list of versions as a whole, and imports these: look.",
            )
            yield _ignore(rule, element, plain, why)
            self.told.append(
                note(
                    "an object with several software versions, one of which is on the list, is "
                    "set aside in quarantine",
                    "the script imports it, because it compares all of them as one text; you may "
                    f'want that, or not: see the rule "{rule} beside others"',
                )
            )

    def _nonempty(self, name: str) -> Iterator[tuple[str, int]]:
        for text, line in self._texts(name):
            if text:
                yield text, line
                continue
            self._lose(
                f"{name} (line {line}): an empty text is not carried over",
                "the script ignores objects whose element is there but empty; a rule would "
                "ignore those without it, too",
                "nothing, unless you miss it",
            )

    def toshiba(self) -> tuple[NewRule, ...]:
        if not self._is_on("use_toshiba_ct_extractor", "no Toshiba extractor is used"):
            return ()
        pairs = tuple(self._pairs())
        if pairs:
            self.told.append(
                note(
                    "CT images of toshiba_extractor_systems are gathered study by study",
                    "OpenREM reads them with Java and PixelMed, which must be installed where it "
                    "runs; a scanner's own dose reports are better, if it can send them",
                )
            )
        return toshiba_rules(pairs)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        setting = self._list("toshiba_extractor_systems")
        if setting is None or not isinstance(setting.value, tuple):
            return
        for one in setting.value:
            if isinstance(one, tuple) and len(one) > 1:
                make, model = one[0], one[1]
                if isinstance(make, str) and isinstance(model, str):
                    yield make, model
                    continue
            self._lose(
                f"{_at(setting)}: {one!r} is no pair of a make and a model",
                "nothing was made of it",
                "write { 'make', 'model' }",
            )

    def tell_of_images(self) -> None:
        """What the script lets in and deletes, and how to have that again."""
        images = [one for one in self.received or ("CT",) if one not in BY_MODALITY]
        if not images:
            return
        listed = ", ".join(f'"{one}"' for one in images)
        self.told.append(
            note(
                f"images of {', '.join(images)} that OpenREM can't read go to quarantine; the "
                "script deleted them",
                "that may be much: a CT study of 1000 images is some 500 MB, and nothing leaves "
                "quarantine by itself",
                "leave it so if few are sent; or write keep_days = 7 under [quarantine]; or, if "
                f"they are not wanted, write this behind all other rules:\n[[rule]]\n"
                'name = "images that OpenREM can\'t read"\n'
                f'match = {{ importer = "none", Modality = [{listed}] }}\nthen = "ignore"',
            )
        )

    def tell_of_the_rest(self) -> None:
        """Statements that weren't read, functions that were changed, settings to think about."""
        for unread in self._script.unread:
            meant = sorted(unread.names & _KNOWN)
            of = f", and has to do with {', '.join(meant)}" if meant else ""
            self._lose(
                f"line {unread.line} of the script {unread.why}{of}",
                "it was not read, because nothing of the script is ever run",
                "write a [[rule]] for it, if it decides about objects",
            )
        if (setting := self._script.settings.get("use_postgres")) and setting.value is not True:
            self._lose(
                f"{_at(setting)} says that OpenREM does not run on PostgreSQL",
                "imports into other databases can't be made safe, so nothing will be imported",
                "move OpenREM to PostgreSQL first",
            )
        for name, sums in _SHIPPED.items():
            function = self._script.functions.get(name)
            if function is None:
                self._lose(
                    f"the script has no function {name}",
                    "it may be another script than OpenREM's for Orthanc",
                    "check it; rules were made of the settings alone",
                )
            elif _sum_of(function) not in sums:
                self._lose(
                    f"{_where(function)} differs from that of OpenREM 1.0.0b3",
                    "rules were made of the settings alone: what was changed in the function, or "
                    "is other in that version of OpenREM, is not carried over",
                    "look what differs, and write a [[rule]] for it if it decides about objects",
                )

    def _is_on(self, name: str, otherwise: str) -> bool:
        """A switch: the script compares it with true, so that nothing else switches it on."""
        setting = self._script.settings.get(name)
        if setting is None:
            self._missing(name, otherwise)
            return False
        if setting.value is True:
            return True
        self.told.append(note(f"{_at(setting)} is not true: {otherwise}"))
        return False

    def _missing(self, name: str, otherwise: str) -> None:
        if any(name in unread.names for unread in self._script.unread):
            return  # its line is told of
        self._lose(
            f"the script has no plain setting {name}",
            otherwise,
            "check that it is OpenREM's script for Orthanc; write the [[rule]] yourself if needed",
        )

    def _list(self, name: str) -> Setting | None:
        setting = self._script.settings.get(name)
        if setting is None:
            self._missing(name, "nothing was made of it")
        elif not isinstance(setting.value, tuple):
            self._lose(f"{_at(setting)} is no list", "nothing was made of it", "write { 'text' }")
            return None
        return setting

    def _texts(self, name: str) -> Iterator[tuple[str, int]]:
        """The texts of a list. A whole number is as the text of its digits, to Lua as well."""
        setting = self._list(name)
        if setting is None or not isinstance(setting.value, tuple):
            return
        for one in dict.fromkeys(setting.value):
            text = _text_of(one)
            if text is None:
                self._lose(
                    f"{_at(setting)}: {one!r} is no text", "nothing was made of it", "put quotes"
                )
            else:
                yield text, setting.line

    def _lose(self, what: str, why: str, next_step: str) -> None:
        self.lost.append(warning(what, why, next_step))


def _text_of(value: Value) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _ignore(rule: str, element: str, texts: tuple[str, ...], why: str) -> NewRule:
    patterns = tuple(glob.escape(text) for text in texts)
    return NewRule(name=rule, match=((element, patterns),), then="ignore", why=why)


def _beside_others(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        literal = glob.escape(text)
        yield from (f"{literal}\\*", f"*\\{literal}", f"*\\{literal}\\*")


def hand_over(drops: Sequence[NewDrop], received: Collection[str] = ()) -> str:
    """A Lua script by which Orthanc puts what it receives into the drop folders.

    What can't be written stays in Orthanc, which logs the error. A file gets its final name when
    it is complete.

    Args:
        drops: the folders.
        received: the modalities that are let in; all if none is named.
    """
    folders = {importer: drop.path for drop in reversed(drops) for importer in drop.expect}
    other = folders.get(Importer.RDSR, drops[0].path)
    chosen = [
        f"  {modality} = {_quoted(folders[importer])},"
        for modality, importer in BY_MODALITY.items()
        if folders.get(importer, other) != other
    ]
    wanted = ", ".join(f"[{_quoted(modality)}] = true" for modality in received)
    return "\n".join(
        (
            "local folders = {",
            *chosen,
            "}",
            f"local other = {_quoted(other)}",
            *((f"local received = {{{wanted}}}", *_FILTERED) if received else ()),
            *_HAND_OVER,
        )
    )


def _quoted(text: str) -> str:
    """A text of Lua's, all of it to be seen on a terminal."""
    return "'" + "".join(_escaped(one) for one in text) + "'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    if char.isprintable():
        return char
    return "".join(f"\\{byte:03}" for byte in char.encode("utf-8", "surrogateescape"))


def toshiba_rules(pairs: Collection[tuple[str, str]]) -> tuple[NewRule, ...]:
    """Rules that hand the CT images of these systems to OpenREM's Toshiba extractor."""
    return tuple(
        NewRule(
            name=f"Toshiba extractor {number}",
            match=(
                ("importer", ("none",)),
                ("Modality", ("CT",)),
                ("Manufacturer", (glob.escape(make),)),
                ("ManufacturerModelName", (glob.escape(model),)),
            ),
            then=f"import:{Importer.CTTOSHIBA.value}",
            why="toshiba_extractor_systems of the script.",
        )
        for number, (make, model) in enumerate(pairs, start=1)
    )


def glob_of(pattern: str) -> str | None:
    """A pattern of Lua's that is sought within a text, as a glob on the whole; None if it can't be.

    Plain text, a ``%`` before a sign, ``^`` at the beginning and ``$`` at the end can be said
    (Lua reference manual, section 6.4.1).
    """
    is_first, rest = pattern.startswith("^"), pattern.removeprefix("^")
    text, is_last = "", False
    while rest:
        one, rest = rest[0], rest[1:]
        if one == "%":
            if not rest or rest[0].isalnum() or not rest[0].isascii():
                return None
            one, rest = rest[0], rest[1:]
        elif one == "$" and not rest:
            is_last = True
            continue
        elif one in _MAGIC or one == "\0":
            return None
        text += one
    if not text:
        return None
    return ("" if is_first else "*") + glob.escape(text) + ("" if is_last else "*")


def all_but(words: Collection[str]) -> tuple[str, ...]:
    """Globs that together match every text but these words, which are letters and digits."""
    lower = sorted({word.lower() for word in words})
    lengths = {len(word) for word in lower}
    longest = max(lengths)
    patterns = ["?" * length for length in range(longest) if length not in lengths]
    patterns.append("?" * (longest + 1) + "*")
    for length in sorted(lengths):
        patterns += _all_but("", [word for word in lower if len(word) == length])
    return tuple(patterns)


def _all_but(head: str, tails: list[str]) -> Iterator[str]:
    """The same for words of one length that begin alike."""
    letters = sorted({tail[0] for tail in tails if tail})
    if letters:
        yield f"{head}[!{''.join(letters)}]{'?' * (len(tails[0]) - 1)}"
    for letter in letters:
        yield from _all_but(head + letter, [tail[1:] for tail in tails if tail[0] == letter])


def _sum_of(function: Function) -> str:
    return hashlib.sha256(" ".join(function.words).encode("utf-8", "surrogatepass")).hexdigest()


def _at(setting: Setting) -> str:
    return f"{setting.name} (line {setting.line})"


def _where(function: Function) -> str:
    return f"{function.name} (line {function.line})"
