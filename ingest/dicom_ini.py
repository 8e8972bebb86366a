"""Reads the import converters in Conquest's dicom.ini, and tells which of them lose objects.

Conquest complains of nothing that it doesn't understand: most ways to write a converter wrongly
destroy objects in silence, or save none. What is said here was tried with Conquest 1.5.0e; how
lines are read follows its own reader: keys and sections whatever their case, the first of two
equal keys, values cut at 512 bytes, a whole value in quotes without them.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ingest.findings import Finding, Level, error, note, ok, warning

SECTION = "sscscp"
VALUE_MAX = 512  # bytes; longer values are cut
NUMBER_MAX = 98  # converters from 99 on never run
_CONVERTER, _MODALITY = "converter", "modality"

_KEY = re.compile(r"(\s*)Import([A-Z]+)([0-9]{1,9})\s*(?:=(.*))?", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(r'"[^"]*"|[;{}]|[^;{}"]+|"')
_CONDITION = re.compile(r"if\w+", re.IGNORECASE)
_QUOTED_PAIR = re.compile(r'if\w+\s+"([^"]*)"\s*,\s*"([^"]*)"', re.IGNORECASE)
_SAVE = re.compile(r"save\s+to\s+(.*)", re.IGNORECASE | re.DOTALL)
_SOP_CLASS = re.compile(
    r"if(?:equal|match)\b.*?0008,0016[^\d*?]*([0-2](?:\.\d+)+)(?![\d.*?])",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN = re.compile(r"destroy|nop|save\s+to\s.*|lua\s.*\bos\.rename\b.*", re.IGNORECASE | re.DOTALL)
_BETWEEN_SEVERAL = re.compile(r"[,;|/\\\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """One ImportConverter, and the ImportModality of its number."""

    number: int
    line: int
    text: str  # its commands, as Conquest would read them
    modality: str | None = None  # None: no line says one
    modality_line: int = 0
    is_filtered: bool = False  # by something else, such as ImportStationName
    sop_class: str = ""  # that it asks for; empty if for none
    folder: str = ""  # that it saves into, as written; empty if into none
    file: str = ""  # the name that it saves under
    destroys: bool = False  # does Conquest give the object up?

    @property
    def where(self) -> str:
        """Which one it is, for people."""
        return f"dicom.ini line {self.line}: ImportConverter{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that was meant for converters."""

    line: int
    kind: str  # converter | modality | the name of another filter
    number: str  # as written
    value: str

    @property
    def key(self) -> str:
        """How it begins."""
        return f"Import{self.kind.capitalize()}{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomIni:
    """All that concerns converters in one dicom.ini."""

    has_section: bool
    converters: tuple[Converter, ...]  # those that Conquest reads, by number
    modalities: tuple[Line, ...]  # the same
    indented: tuple[Line, ...] = ()
    misplaced: tuple[Line, ...] = ()  # in another section
    repeated: tuple[tuple[Line, int], ...] = ()  # each with the line of the first
    padded: tuple[Line, ...] = ()  # numbers that begin with a zero
    long: tuple[Line, ...] = ()  # values that are cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What must be known to judge where converters save."""

    drops: Collection[str]  # the real paths of the drop folders
    folders: Mapping[str, str]  # of the folders of converters that exist: their real paths
    is_passed_over: Callable[[bytes], bool] = lambda _name: False  # names that nobody imports


# -- reading ---------------------------------------------------------------------------------------


def parse(text: str) -> DicomIni:
    """The converters of a dicom.ini.

    Args:
        text: the whole file; decoded with ``surrogateescape``, because paths need not be text.
    """
    kept: dict[tuple[str, str], Line] = {}
    indented: list[Line] = []
    misplaced: list[Line] = []
    repeated: list[tuple[Line, int]] = []
    padded: list[Line] = []
    section, has_section = "", False
    for number, row in enumerate(text.split("\n"), start=1):
        if row.startswith("["):
            section = row[1:].partition("]")[0].lower()
            has_section = has_section or section == SECTION
        found = _line(number, row)
        if found is None:
            continue
        line, is_indented = found
        first = kept.get((line.kind, line.number))
        if is_indented:
            indented.append(line)
        elif section != SECTION:
            misplaced.append(line)
        elif line.number != str(int(line.number)):
            padded.append(line)
        elif first is not None:
            repeated.append((line, first.line))
        else:
            kept[line.kind, line.number] = line
    return DicomIni(
        has_section=has_section,
        converters=tuple(sorted(_converters(kept), key=lambda one: one.number)),
        modalities=tuple(line for line in kept.values() if line.kind == _MODALITY),
        indented=tuple(indented),
        misplaced=tuple(misplaced),
        repeated=tuple(repeated),
        padded=tuple(padded),
        long=tuple(line for line in kept.values() if _bytes_of(line.value) > VALUE_MAX),
    )


def _line(number: int, row: str) -> tuple[Line, bool] | None:
    match = _KEY.fullmatch(row.rstrip("\r"))
    if match is None:
        return None
    value = (match[4] or "").strip(" \t")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return Line(line=number, kind=match[2].lower(), number=match[3], value=value), bool(match[1])


def _converters(kept: Mapping[tuple[str, str], Line]) -> Iterator[Converter]:
    for (kind, number), line in kept.items():
        if kind != _CONVERTER:
            continue
        modality = kept.get((_MODALITY, number))
        others = {other for other, its in kept if its == number} - {_CONVERTER, _MODALITY}
        save = _first_save(line.value)
        folder, _, file = save.rpartition("/")
        condition = _condition_of(line.value)
        asked = _SOP_CLASS.match(condition) if condition else None
        yield Converter(
            number=int(number),
            line=line.line,
            text=line.value,
            modality=modality.value if modality else None,
            modality_line=modality.line if modality else 0,
            is_filtered=bool(others),
            sop_class=asked[1] if asked else "",
            folder=folder or ("/" if save.startswith("/") else ""),
            file=file,
            destroys=any(_destroys(step.text) for step in _steps(line.value)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One command of a converter."""

    text: str
    block: int  # which block of braces it is in; 0: none
    end: str  # ; { } or nothing


def _steps(text: str) -> list[_Step]:
    """The commands, with the blocks that they are in. An opening brace ends an empty one."""
    steps: list[_Step] = []
    open_blocks, blocks, words = [0], 0, ""
    for part in [*_TOKEN.findall(text), ""]:
        if part not in {";", "{", "}", ""}:
            words += part
            continue
        if words.strip() or part == "{":
            steps.append(_Step(text=words.strip(), block=open_blocks[-1], end=part))
        words = ""
        if part == "{":
            blocks += 1
            open_blocks.append(blocks)
        elif part == "}" and len(open_blocks) > 1:
            open_blocks.pop()
    return steps


def _saves(text: str) -> list[tuple[_Step, str]]:
    """Each command that saves, with what it saves to."""
    return [
        (step, match[1].strip())
        for step in _steps(text)
        if (match := _SAVE.fullmatch(step.text)) is not None
    ]


def _first_save(text: str) -> str:
    return next((target.strip("\"'") for _step, target in _saves(text)), "")


def _is_conditional(text: str) -> bool:
    return any(_CONDITION.match(step.text) for step in _steps(text))


def _condition_of(text: str) -> str:
    """The one condition that holds for all of the commands; empty if it is not that plain."""
    steps = _steps(text)
    asking = [bool(re.match(r"if\w+|else\b", step.text, re.IGNORECASE)) for step in steps]
    if not (asking and asking[0]) or any(asking[1:]):
        return ""
    is_outside = any(step.block == 0 and step.text for step in steps[1:])
    return "" if _has_block(steps, 0) and is_outside else steps[0].text


def _has_block(steps: Sequence[_Step], index: int) -> bool:
    """Is what a condition is for in braces?"""
    after = steps[index + 1 : index + 2]
    return steps[index].end == "{" or any(step.end == "{" and not step.text for step in after)


def _destroys(command: str) -> bool:
    return command.lower() == "destroy" or "destroy()" in command


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


# -- judging ---------------------------------------------------------------------------------------


def lint(ini: DicomIni, around: Surroundings | None) -> tuple[Finding, ...]:
    """All that is wrong with the converters, and what to know of them.

    Args:
        ini: what was read.
        around: where the drop folders are; None if there is no configuration.
    """
    findings = [*_lines(ini)]
    for converter in ini.converters:
        findings += _numbers(converter, ini)
        findings += _modalities(converter)
        findings += _commands(converter)
        if around is not None:
            findings += _places(converter, around)
    findings += _alone(ini)
    if around is not None:
        findings += _unfilled(ini, around)
    if not any(finding.level in {Level.WARNING, Level.ERROR} for finding in findings):
        count = _number_of(len(ini.converters))
        findings.insert(0, ok(f"dicom.ini: {count}, nothing that loses objects"))
    return tuple(findings)


def _number_of(count: int) -> str:
    return "1 import converter" if count == 1 else f"{count} import converters"


def _lines(ini: DicomIni) -> Iterator[Finding]:
    if not ini.has_section:
        yield error(
            f"dicom.ini has no section [{SECTION}]",
            "Conquest reads its import converters there and nowhere else",
            f"check that this is the dicom.ini beside Conquest's program; put [{SECTION}] above "
            "the lines",
        )
    for line in ini.indented:
        yield error(
            f"dicom.ini line {line.line}: {line.key} is indented",
            f"Conquest ignores lines that begin with a blank, so {_without(line, ini)}",
            f"begin it in the first column: {line.key} = {line.value}",
        )
    for line in ini.misplaced if ini.has_section else ():
        yield error(
            f"dicom.ini line {line.line}: {line.key} stands outside of section [{SECTION}]",
            f"Conquest ignores it there, so {_without(line, ini)}",
            f"move the line up or down into [{SECTION}]",
        )
    for line, first in ini.repeated:
        yield error(
            f"dicom.ini line {line.line}: {line.key} is there twice (first in line {first})",
            f"the first wins, so {_without(line, ini, is_second=True)}",
            f"give it a number of its own, with its ImportModality: "
            f"Import{line.kind.capitalize()}{_free_number(ini)} = {line.value}",
        )
    for line in ini.padded:
        plain = f"Import{line.kind.capitalize()}{int(line.number)}"
        yield error(
            f"dicom.ini line {line.line}: {line.key} has a number that begins with 0",
            f"Conquest looks for {plain}, so {_without(line, ini)}",
            f"write {plain} = {line.value}",
        )
    for line in ini.long:
        yield error(
            f"dicom.ini line {line.line}: the value of {line.key} has {_bytes_of(line.value)} "
            f"bytes, more than {VALUE_MAX}",
            "Conquest cuts it there and runs what is left: objects can be lost in silence",
            "use a shorter path for the drop folder, or the shorter form of the line "
            "(openrem-ingest conquest --plain)",
        )


def _without(line: Line, ini: DicomIni, *, is_second: bool = False) -> str:
    """What follows if this line counts for nothing."""
    if line.kind == _CONVERTER:
        return "what it should save never comes into its folder, and stays in Conquest"
    if line.kind == _MODALITY and not is_second:
        for converter in ini.converters:
            if str(converter.number) == line.number:
                return (
                    f"ImportConverter{line.number} (line {converter.line}) runs on every object "
                    f"that Conquest receives, not on {line.value or 'some'} only"
                )
    return "it counts for nothing"


def _free_number(ini: DicomIni) -> int:
    taken = {one.number for one in ini.converters} | {int(one.number) for one in ini.modalities}
    return next((number for number in range(1, NUMBER_MAX + 1) if number not in taken), 1)


def _numbers(converter: Converter, ini: DicomIni) -> Iterator[Finding]:
    if converter.number > NUMBER_MAX:
        free = _free_number(ini)
        yield error(
            f"{converter.where} has a number above {NUMBER_MAX}",
            f"Conquest never runs it: {_objects(converter)} never come into their folder, and "
            "stay in Conquest",
            _remedy("use a number that is free", converter, number=free),
        )


def _modalities(converter: Converter) -> Iterator[Finding]:
    modality = converter.modality
    if modality is None:
        return
    where = f"dicom.ini line {converter.modality_line}: ImportModality{converter.number}"
    lost = f"never run ImportConverter{converter.number} (line {converter.line}): nothing comes"
    if not modality:
        yield error(
            f"{where} is empty",
            f"it does not mean every modality: Conquest will {lost} into its folder",
            f"write one modality (ImportModality{converter.number} = MG), or remove the line if "
            "the converter itself asks for the SOP class",
        )
    elif _BETWEEN_SEVERAL.search(modality):
        several = ", ".join(filter(None, _BETWEEN_SEVERAL.split(modality)))
        yield error(
            f"{where} is a list: {modality}",
            f"Conquest looks for one modality of that very name, and will {lost} into its folder",
            f"write one converter for each of {several}, with a number of its own: "
            f"ImportModality{converter.number} = {re.split(_BETWEEN_SEVERAL, modality)[0]}",
        )


def _commands(converter: Converter) -> Iterator[Finding]:
    text = converter.text
    outside = [part for part in _TOKEN.findall(text) if not part.startswith('"')]
    if text.count('"') % 2 or outside.count("{") != outside.count("}"):
        yield error(
            f"{converter.where} has a quote or a brace without its other half",
            f"what Conquest makes of it is not known; {_objects(converter)} may be lost",
            _remedy("give it its other half", converter),
        )
        return
    faults = [*_conditions(converter), *(tuple(_orders(converter)) or _targets(converter))]
    yield from faults
    if faults:
        return
    is_for_all = converter.modality is None and not converter.is_filtered
    if is_for_all and converter.destroys and not _is_conditional(text):
        yield warning(
            f"{converter.where} asks for no modality and no SOP class",
            "it takes every object that Conquest receives"
            + ("" if converter.folder else ", and destroys it"),
            f"say which objects are meant, for example: ImportModality{converter.number} = MG",
        )
    elif converter.folder and not converter.destroys:
        yield note(
            f"{converter.where} saves a copy and has no destroy",
            f"Conquest keeps {_objects(converter)}, too: they are stored twice",
            _remedy("if they are wanted in OpenREM only", replace(converter, destroys=True)),
        )


def _conditions(converter: Converter) -> Iterator[Finding]:
    """Conditions that aren't understood: what they should guard is done to every object."""
    steps = _steps(converter.text)
    for index, step in enumerate(steps):
        if not _CONDITION.match(step.text):
            continue
        word = step.text.split()[0]
        if not _QUOTED_PAIR.fullmatch(step.text):
            yield error(
                f'{converter.where}: {word} without double quotes (") around both of its values',
                f"Conquest doesn't understand the condition: {_every(converter)}",
                _remedy("put double quotes around each of the two values", converter),
            )
        elif not _has_block(steps, index) and len(steps) > index + 2:
            yield error(
                f"{converter.where}: {word} without braces around what it is for",
                "the condition then holds for the first command only and the others are run "
                f"always: {_every(converter)}",
                _remedy("put braces around all that it is for", converter),
            )


def _orders(converter: Converter) -> Iterator[Finding]:
    gone: set[int] = set()
    for step in _steps(converter.text):
        if step.text.lower() == "destroy":
            gone.add(step.block)
        elif _SAVE.fullmatch(step.text) and gone & {0, step.block}:
            yield error(
                f"{converter.where}: destroy comes before save to",
                f"nothing is saved then: {_objects(converter)} are lost",
                _remedy("save first, then destroy", converter),
            )


def _targets(converter: Converter) -> Iterator[Finding]:
    for step, target in _saves(converter.text):
        if target[:1] in {'"', "'"}:
            lost = "are lost" if converter.destroys else "stay in Conquest only"
            yield error(
                f"{converter.where}: the path after save to is in quotes",
                f"Conquest then saves nothing: {_objects(converter)} {lost}",
                _remedy("write the path without quotes (blanks in it do no harm)", converter),
            )
        elif step.end == "}":
            yield error(
                f"{converter.where}: save to stands last within the braces",
                f"the brace becomes a part of the name: files are called {target.split('/')[-1]}}}",
                _remedy("put a command or a semicolon between the name and the brace", converter),
            )


def _places(converter: Converter, around: Surroundings) -> Iterator[Finding]:
    """Where a converter saves, unless there is something worse about that."""
    if not converter.folder or any(_targets(converter)):
        yield from _relative(converter)
        return
    yield from _names(converter, around)
    folder = converter.folder
    drops = ", ".join(sorted(around.drops))
    lost = _if_folder_is_missing(converter)
    if "%" in folder:
        yield warning(
            f"{converter.where} saves into a folder that differs from object to object: {folder}",
            f"Conquest makes no folders: while one is missing, {lost}; and openrem-ingest removes "
            "sub-folders of a drop folder once they are empty",
            f"save into a drop folder itself: {drops}",
        )
    elif not folder.startswith("/"):
        yield from _relative(converter)
    elif folder not in around.folders:
        yield error(
            f"{converter.where} saves into {folder}, which does not exist (or may not be seen)",
            f"Conquest makes no folders: {lost}",
            f"make the folder and name it in a [[drop]], or save into one of: {drops}",
        )
    elif (real := around.folders[folder]) not in around.drops:
        if any(real.startswith(drop.rstrip("/") + "/") for drop in around.drops):
            yield error(
                f"{converter.where} saves into {folder}, a sub-folder of a drop folder",
                "openrem-ingest removes it once it is empty, as it does with folders that were "
                f"dragged in; then {lost}",
                "give it a [[drop]] of its own: those are never removed",
            )
        else:
            yield warning(
                f"{converter.where} saves into {folder}, which is no drop folder",
                f"openrem-ingest never sees {_objects(converter)}",
                f"give it a [[drop]] in the configuration, or save into one of: {drops}",
            )


def _relative(converter: Converter) -> Iterator[Finding]:
    target = _first_save(converter.text)
    if target and not target.startswith("/"):
        yield warning(
            f"{converter.where} saves to a path without a leading /: {target}",
            "it begins at Conquest's own folder, so it is not known where it leads",
            "write the whole path of a drop folder",
        )


def _names(converter: Converter, around: Surroundings) -> Iterator[Finding]:
    if "%" not in converter.file:
        yield error(
            f"{converter.where} saves every object under one name: {converter.file}",
            f"each overwrites the one before it: {_objects(converter)} are lost",
            _remedy("name files by %o, their SOP Instance UID", converter),
        )
    elif "%o" not in converter.file:
        yield warning(
            f"{converter.where} names files by something else than %o: {converter.file}",
            "two objects of one name overwrite each other",
            _remedy("name files by their SOP Instance UID", converter),
        )
    if around.is_passed_over(os.fsencode(converter.file)) and "os.rename" not in converter.text:
        yield error(
            f"{converter.where} saves under a name that is left alone: {converter.file}",
            "openrem-ingest takes such files for transfers in progress, and never imports them",
            _remedy("give them their final name", converter),
        )


def _alone(ini: DicomIni) -> Iterator[Finding]:
    numbers = {str(converter.number) for converter in ini.converters}
    for line in ini.modalities:
        if line.number not in numbers:
            yield note(
                f"dicom.ini line {line.line}: {line.key} has no ImportConverter{line.number}",
                "it does nothing",
            )


def _unfilled(ini: DicomIni, around: Surroundings) -> Iterator[Finding]:
    filled = {around.folders.get(one.folder) for one in ini.converters}
    for drop in sorted(set(around.drops) - filled):
        yield note(
            f"no import converter saves into the drop folder {drop}",
            "that is right if people or other systems fill it",
        )


def _objects(converter: Converter) -> str:
    """The objects that a converter is for."""
    if converter.sop_class:
        return f"objects of SOP class {converter.sop_class}"
    if _is_conditional(converter.text):
        return "the objects that it is for"
    if converter.modality:
        return f"all {converter.modality} objects"
    return "all objects"


def _every(converter: Converter) -> str:
    """What a converter does whose condition does not hold it back."""
    which = f"{converter.modality} object" if converter.modality else "object"
    done = "destroyed" if converter.destroys else "taken for one of these"
    return f"every {which} that Conquest receives is {done}"


def _if_folder_is_missing(converter: Converter) -> str:
    if "reject()" in converter.text:
        return f"it refuses {_objects(converter)}"
    if converter.destroys:
        return f"{_objects(converter)} are lost, although the sender hears of success"
    return f"{_objects(converter)} stay in Conquest only"


def _remedy(words: str, converter: Converter, *, number: int = 0) -> str:
    """What to do; with lines to copy where there is no doubt how they should be."""
    right = _right(converter, number or min(converter.number, NUMBER_MAX))
    if not right:
        return words
    return f"{words}: {right[0]}" if len(right) == 1 else "\n".join((f"{words}:", *right))


def _right(converter: Converter, number: int) -> tuple[str, ...]:
    """The right form of a converter, for the same objects; none if it does more than save."""
    commands = [step.text for step in _steps(converter.text) if step.text]
    condition = _condition_of(converter.text)
    others = commands[1:] if condition else commands
    is_plain = all(_PLAIN.fullmatch(command) for command in others)
    if not converter.folder or not is_plain or len(_saves(converter.text)) > 1:
        return ()
    action = f"save to {converter.folder}/%o.dcm"
    if converter.destroys:
        action += "; destroy"
    if condition:
        word = condition.split()[0]
        if not _QUOTED_PAIR.fullmatch(condition):
            if not converter.sop_class:
                return ()
            condition = f'{word} "%V0008,0016","{converter.sop_class}"'
        action = f"{condition}; {{{action if converter.destroys else action + '; nop'}}}"
    line = f"ImportConverter{number} = {action}"
    if not converter.modality:
        return (line,)
    modality = re.split(_BETWEEN_SEVERAL, converter.modality)[0]
    return f"ImportModality{number} = {modality}", line
