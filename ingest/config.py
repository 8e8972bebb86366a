"""Reads the configuration: TOML in, frozen settings out, one line naming key and remedy if not."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from ingest.errors import ConfigError
from ingest.model import OF_OBJECTS, Importer

VARIABLE = "OPENREM_INGEST_CONFIG"
FILE_NAME = "openrem-ingest.toml"
BY_HAND = "by hand"  # how the folders of manual imports are called


def _absolute(path: Path) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no such user: {path.parts[0]}") from error
    if not path.is_absolute():
        raise ValueError("must be an absolute path, starting with /")
    if "\0" in str(path):
        raise ValueError("must not have a NUL character in it")
    return Path(os.path.normpath(path))


def _plain(name: str) -> str:
    """The name becomes that of a folder in the quarantine."""
    if name in {"", ".", ".."} or "/" in name or not name.isprintable():
        raise ValueError("must be a plain name, as a folder may have; without /")
    if name.startswith(BY_HAND):
        raise ValueError(f'must not begin with "{BY_HAND}": so manual imports are called')
    return name


def _default_state_dir() -> Path:
    """A service's state belongs to the machine, a user's own to the user."""
    if os.geteuid() == 0:
        return Path("/var/lib/openrem-ingest")
    return Path(platformdirs.user_state_dir("openrem-ingest"))


def _mount(what: str) -> str:
    if what in {"auto", "none"}:
        return what
    if not what.startswith("/"):
        raise ValueError('must be "auto", "none", or the absolute path of a mount, with a /')
    return os.path.normpath(what)


Mount = Annotated[str, AfterValidator(_mount)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[int, Field(ge=1, le=36500)]


# Keys of the design that a later version will know: (table, key).
_PLANNED = frozenset({("openrem", "command"), ("openrem", "paths")})

_UID_LIKE = re.compile(r"[0-9.*?\[\]!-]+")
MAX_NAME = 100  # characters, of a rule's name
IMPORT = "import:"  # and the importer's name, as a rule's `then`
_CLAIMS = ".ingest"  # in each drop folder: what is worked on
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|undated")  # in a rule's folder
SUBJECTS = ("drop", "importer", "sop_class")  # of a rule's `match`, beside keywords of elements
_FILE_META = 0x0002  # group of the elements that tell of the file, not of the object
_NO_TEXT = frozenset({"SQ", "UN"} | {f"O{kind}" for kind in "BDFLVW"})  # VRs without text


def _is_on(path: Path, mount: str) -> bool:
    return mount in {"auto", "none"} or path.is_relative_to(mount)


class _Table(BaseModel):
    """A table of the configuration: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Saving = Literal["sleep", "codes", "rows", "names", "reading", "decoding", "memory", "session"]


class OpenRem(_Table):
    """`[openrem]`: how OpenREM is called."""

    python: AbsolutePath
    importer: Literal["worker"] = "worker"
    workers: Annotated[int, Field(ge=1, le=16)] = 2
    env: dict[str, str] = Field(default_factory=dict)
    timeout: Seconds = 900.0  # seconds for one import, then its worker is given up
    memory: Annotated[int, Field(ge=256)] = 2048  # MiB for each worker, then the import is undone
    without: tuple[Saving, ...] = ()  # savings that are switched off: see savings.py
    demo_site: AbsolutePath | None = None  # a private OpenREM: its database is started for us


def _of_objects(what: object) -> object:
    """Tables of sizes are told by their folder's kind, objects by what they are."""
    names = [importer.value for importer in OF_OBJECTS]
    if isinstance(what, str) and what not in names:
        *most, last = map(repr, names)
        raise ValueError(f"{what!r} is not possible. Next: use {', '.join(most)} or {last}")
    return what


def _title(words: str) -> str:
    if not words.strip() or not words.isprintable() or len(words) > MAX_NAME:
        raise ValueError(f"must be the title of a column, up to {MAX_NAME} characters of one line")
    return words.strip()


Title = Annotated[str, AfterValidator(_title)]


class Columns(_Table):
    """`columns`: the titles of the columns of a table of heights and weights."""

    id: Title  # of the study
    height: Title  # cm
    weight: Title  # kg

    @model_validator(mode="after")
    def _are_three(self) -> "Columns":
        if len({self.id, self.height, self.weight}) < len(type(self).model_fields):
            raise ValueError("two have the same title. Next: give each column its own")
        return self


class Drop(_Table):
    """`[[drop]]`: one watched folder."""

    path: AbsolutePath
    name: Annotated[str, AfterValidator(_plain)] = ""  # the folder's own where it isn't given
    kind: Literal["dicom", "ptsizecsv"] = "dicom"
    expect: tuple[Annotated[Importer, BeforeValidator(_of_objects)], ...] = ()
    after: Literal["delete", "archive", "keep"] = "delete"
    watch: Literal["auto", "native", "poll"] = "auto"
    archive: AbsolutePath | None = None
    mount: Mount = "auto"  # what must be mounted for it
    archive_mount: Mount = "auto"  # and for its archive
    # These go with kind = "ptsizecsv": tables of patients' heights and weights.
    columns: Columns | None = None
    study_uid: bool = False  # the ids are Study Instance UIDs, else accession numbers
    overwrite: bool = False  # sizes that OpenREM already has
    unmatched: Literal["accept", "wait"] = "wait"  # rows whose study OpenREM doesn't have
    wait_days: Days = 30  # with unmatched = "wait"; then the file is quarantined

    @model_validator(mode="after")
    def _keys_are_of_its_kind(self) -> "Drop":
        if self.kind == "ptsizecsv" and self.columns is None:
            raise ValueError(
                'kind = "ptsizecsv" needs the key columns: the titles of three columns, as in '
                'columns = { id = "Accession Number", height = "Height", weight = "Weight" }'
            )
        for key in ("columns", "study_uid", "overwrite", "unmatched", "wait_days"):
            if key in self.model_fields_set and self.kind != "ptsizecsv":
                raise ValueError(f'{key}: goes only with kind = "ptsizecsv". Next: remove it')
        if "wait_days" in self.model_fields_set and self.unmatched != "wait":
            raise ValueError('wait_days: goes only with unmatched = "wait". Next: remove it')
        return self

    @model_validator(mode="after")
    def _archive_is_where(self) -> "Drop":
        if self.after == "archive" and self.archive is None:
            raise ValueError('after = "archive" needs the key archive: the folder to move to')
        return self

    @model_validator(mode="after")
    def _mount_is_above(self) -> "Drop":
        if not _is_on(self.path, self.mount):
            raise ValueError(f"mount: {self.path} does not lie on {self.mount}; name its own mount")
        return self


def _then(what: str) -> str:
    importers = [importer.value for importer in OF_OBJECTS]
    if what in {"ignore", "keep", "quarantine"}:
        return what
    if what.startswith(IMPORT) and what.removeprefix(IMPORT) in importers:
        return what
    raise ValueError(
        f"{what!r} is not possible. Next: use 'ignore', 'keep', 'quarantine' or 'import:' and one "
        f"of {', '.join(importers)}"
    )


def _subject(word: str) -> str:
    """What a condition may ask about: a keyword of DICOM's dictionary (PS3.6), or our own word."""
    if word in SUBJECTS:
        return word
    tag = tag_for_keyword(word)
    if tag is None or tag >> 16 == _FILE_META:
        lower = {name.lower(): name for name in (*SUBJECTS, *keyword_dict)}
        near = difflib.get_close_matches(word.lower(), lower, n=1)
        hint = f"did you mean {lower[near[0]]}?" if near else "use a keyword such as StationName"
        raise ValueError(f"{word!r} is no keyword of an element of DICOM. Next: {hint}")
    if dictionary_VR(tag)[:2] in _NO_TEXT:
        raise ValueError(f"{word} holds no text to match. Next: choose another element")
    return word


def _patterns(given: object) -> object:
    return (given,) if isinstance(given, str) else given


def _check_there_is(key: str, pattern: str, known: list[str] | None) -> None:
    """Raise `ValueError` if a pattern is like nothing that can be asked about."""
    if known is None or _UID_LIKE.fullmatch(pattern):  # classes of vendors' own are in no list
        return
    lower = {name.casefold(): name for name in known}
    if any(fnmatchcase(name, pattern.casefold()) for name in lower):
        return
    near = difflib.get_close_matches(pattern.casefold(), lower, n=1, cutoff=0.4)
    hint = f"did you mean {lower[near[0]]!r}?" if near else "correct it"
    raise ValueError(f"{key}: there is nothing like {pattern!r}. Next: {hint}")


def _rule_name(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME or '"' in name:
        raise ValueError(f'must be up to {MAX_NAME} characters of one line, and without "')
    return name


def _some(match: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    if not match:
        raise ValueError('is empty. Next: say what objects, as in { StationName = "CR85 *" }')
    return match


Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns), Field(min_length=1)]


class Rule(_Table):
    """`[[rule]]`: what is to happen to some objects. The first that matches decides."""

    name: Annotated[str, AfterValidator(_rule_name)]
    match: Annotated[
        dict[Annotated[str, AfterValidator(_subject)], Patterns], AfterValidator(_some)
    ]
    then: Annotated[str, AfterValidator(_then)]
    into: AbsolutePath | None = None  # keep: the folder, with sub-folders by date and study
    zip: bool = False  # keep: make one file of each study, once it is quiet
    quiet: Seconds = 300.0  # seconds without a further object, then a study is quiet
    archive: AbsolutePath | None = None  # ignore: the folder to move to instead of deleting
    mount: Mount = "auto"  # what must be mounted for `into` or `archive`

    @property
    def target(self) -> Path | None:
        """Where the objects go, if anywhere."""
        return self.into or self.archive

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "Rule":
        if self.then == "keep" and self.into is None:
            raise ValueError('then = "keep" needs the key into: the folder to move to')
        for key in ("into", "zip", "quiet"):
            if key in self.model_fields_set and self.then != "keep":
                raise ValueError(f'{key}: goes only with then = "keep". Next: remove it')
        if self.archive is not None and self.then != "ignore":
            raise ValueError('archive: goes only with then = "ignore". Next: remove it')
        if self.target is not None and not _is_on(self.target, self.mount):
            raise ValueError(f"mount: {self.target} does not lie on {self.mount}")
        return self


class Settle(_Table):
    """`[settle]`: when a file counts as complete. Seconds."""

    quiet: Seconds = 2.0  # without change, where an open writer can't be seen
    network_quiet: Seconds = 15.0  # the same on network file systems
    incomplete_after: Seconds = 3600.0  # then quarantined as truncated
    tidy_after: Seconds = 10.0  # then an emptied sub-folder is removed


class Gather(_Table):
    """`[gather]`: when a study that is imported as a whole counts as complete."""

    quiet: Seconds = 600.0  # seconds without a further object of it


class Sweep(_Table):
    """`[sweep]`: how often the folders are looked through. Seconds."""

    quick: Seconds = 1.0  # between looks for folders that changed
    full: Seconds = 300.0  # between full sweeps


class Retry(_Table):
    """`[retry]`: what may yet succeed is tried again. Seconds."""

    attempts: PositiveInt = 8
    initial: Seconds = 5.0
    maximum: Seconds = 900.0


class Quarantine(_Table):
    """`[quarantine]`: where refused files go, and for how long."""

    path: AbsolutePath | None = None
    mount: Mount = "auto"  # what must be mounted for it
    keep_days: Days | None = None  # then they are deleted; never, if not said


class Disk(_Table):
    """`[disk]`: below what free space to warn. Nothing is ever deleted because of it."""

    low: Annotated[int, Field(ge=0)] = 2048  # MiB on each of the volumes; 0: never
    low_files: Annotated[int, Field(ge=0)] = 10_000  # more that can be made there (free inodes)


class History(_Table):
    """`[history]`: how long the ledger tells what became of a file."""

    keep_days: Days = 365


class Settings(_Table):
    """The whole configuration."""

    state_dir: AbsolutePath = Field(default_factory=_default_state_dir)
    openrem: OpenRem
    drop: tuple[Drop, ...] = ()
    rule: tuple[Rule, ...] = ()
    settle: Settle = Settle()
    gather: Gather = Gather()
    sweep: Sweep = Sweep()
    retry: Retry = Retry()
    quarantine: Quarantine = Quarantine()
    history: History = History()
    disk: Disk = Disk()

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return self.state_dir / "ledger.sqlite"

    @property
    def quarantine_path(self) -> Path | None:
        """Where refused files go: ``failed`` beside the first drop folder if not said."""
        if self.quarantine.path is not None:
            return self.quarantine.path
        return self.drop[0].path.parent / "failed" if self.drop else None

    @model_validator(mode="before")
    @classmethod
    def _name_the_drops(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the TOML held
        """Give each drop folder a name of its own: its last part, numbered where that is taken."""
        if not isinstance(data, dict) or not isinstance(data.get("drop"), list):
            return data
        taken: set[str] = set()
        drops = []
        for drop in data["drop"]:
            if not isinstance(drop, dict):
                return data
            wish = str(
                drop.get("name") or os.path.basename(os.path.normpath(str(drop.get("path"))))
            )
            name, number = wish, 2
            while name in taken:
                name, number = f"{wish}-{number}", number + 1
            taken.add(name)
            drops.append({**drop, "name": name})
        return {**data, "drop": drops}

    @model_validator(mode="after")
    def _rules_name_what_there_is(self) -> "Settings":
        """A rule that never matches would be found out only by what it did not do."""
        known: dict[str, list[str] | None] = {
            "drop": [drop.name for drop in self.drop] or None,
            "importer": [*(one.value for one in OF_OBJECTS), "none"],
            "sop_class": [*UID_dictionary, *(entry[0] for entry in UID_dictionary.values())],
        }
        for number, rule in enumerate(self.rule, start=1):
            for subject, patterns in rule.match.items():
                for pattern in patterns:
                    _check_there_is(f"rule[{number}].match.{subject}", pattern, known.get(subject))
        return self

    @model_validator(mode="after")
    def _rules_have_their_own_names(self) -> "Settings":
        names = [rule.name for rule in self.rule]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"rule: two rules are called {name!r}. Next: give each its own name"
                )
        return self

    @model_validator(mode="after")
    def _paths_are_apart(self) -> "Settings":
        paths = [drop.path for drop in self.drop]
        if len(set(paths)) < len(paths):
            raise ValueError("drop: two drop folders have the same path; give each its own")
        for key, other in self.targets():
            if other in paths:
                raise ValueError(f"{key}: {other} is a drop folder; give it a folder of its own")
        return self

    @model_validator(mode="after")
    def _rules_have_their_own_folders(self) -> "Settings":
        """What a rule takes out must not come back, nor hide what others have there."""
        for number, rule in enumerate(self.rule, start=1):
            if rule.target is None:
                continue
            key = f"rule[{number}].{'into' if rule.into else 'archive'}"
            for drop in self.drop:
                if rule.target.is_relative_to(drop.path / _CLAIMS):
                    raise ValueError(
                        f"{key}: {rule.target} is openrem-ingest's own; choose another"
                    )
                if self.quarantine_path and rule.target == self.quarantine_path / drop.name:
                    raise ValueError(
                        f"{key}: {rule.target} is where refused files go; choose another"
                    )
                if drop.path.is_relative_to(rule.target) and _DATED.fullmatch(
                    drop.path.relative_to(rule.target).parts[0]
                ):
                    raise ValueError(
                        f"{key}: by their date files would come from {rule.target} into the drop "
                        f"folder {drop.path}; choose another"
                    )
        return self

    def targets(self) -> Iterator[tuple[str, Path]]:
        """What must not be a drop folder, by the keys that say where it is."""
        yield "state_dir", self.state_dir
        if self.quarantine_path is not None:
            yield "quarantine.path", self.quarantine_path
            for drop in self.drop:
                yield "quarantine.path", self.quarantine_path / drop.name
        for number, drop in enumerate(self.drop, start=1):
            if drop.archive is not None:
                yield f"drop[{number}].archive", drop.archive
        for number, rule in enumerate(self.rule, start=1):
            if rule.target is not None:
                yield f"rule[{number}].{'into' if rule.into else 'archive'}", rule.target


def find_file(given: Path | None) -> Path:
    """The configuration to read: the one given, else the first that there is.

    Raises:
        ConfigError: there is none.
    """
    if given is not None:
        return given
    if named := os.environ.get(VARIABLE):
        return Path(named)
    places = [
        Path(FILE_NAME),
        Path(platformdirs.user_config_dir("openrem-ingest")) / "config.toml",
        Path("/etc/openrem-ingest/config.toml"),
    ]
    for place in places:
        if os.path.exists(place):  # unlike Path.exists it does not raise where it may not look
            return place
    looked = ", ".join(str(place) for place in places)
    raise ConfigError(
        f"no configuration found (looked for {looked}). Next: name one with -c FILE, "
        "have one written by: openrem-ingest init; or make a trial set-up with: openrem-ingest demo"
    )


def load(path: Path) -> Settings:
    """Read and check a configuration.

    Raises:
        ConfigError: it can't be read, or has a wrong key or value; one line.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read ({error.strerror}). Next: check the path given with -c"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: is not valid TOML ({error}). Next: correct that line"
        ) from error
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(_first(error.errors()))}") from error


def _first(errors: list[ErrorDetails]) -> ErrorDetails:
    """The error to tell of: a key that is planned explains why another one is missing."""
    return next((error for error in errors if _is_planned(error)), errors[0])


def _is_planned(error: ErrorDetails) -> bool:
    where = error["loc"][:2]
    return where in _PLANNED or (where == ("openrem", "importer") and error["input"] == "script")


def _explain(error: ErrorDetails) -> str:
    """One line: the key, what is wrong with it, and what would be right."""
    key, given = _key(error["loc"]), error["input"]
    if _is_planned(error):
        return f"{key}: is planned, but not in this version. Next: remove it"
    match error["type"]:
        case "extra_forbidden":
            words = f"unknown key. Next: {_nearest(error['loc'])}"
        case "missing":
            words = "is missing. Next: add it (the README's configuration shows all keys)"
        case "value_error":
            words = str(error["msg"]).removeprefix("Value error, ")
        case "literal_error" | "enum":
            wanted = error.get("ctx", {}).get("expected", "")
            words = f"{given!r} is not possible. Next: use {wanted}"
        case kind:
            words = _explain_type(kind, key, error)
    return f"{key}: {words}" if key else words


_NUMBERS = frozenset({"int_parsing", "int_type", "float_parsing", "float_type"})


def _explain_type(kind: str, key: str, error: ErrorDetails) -> str:
    """What is wrong with a value of the wrong sort."""
    if kind == "tuple_type":
        last = key.rpartition(".")[2]
        remedy = f"[[{key}]], with two brackets" if key in {"drop", "rule"} else f'{last} = ["…"]'
        return f"must be a list, but is {error['input']!r}. Next: write {remedy}"
    if kind in _NUMBERS:
        return f"must be a number, but is {error['input']!r}. Next: write it without quotes"
    if kind == "string_type":
        return f"must be text, but is {error['input']!r}. Next: put it in quotes"
    words = str(error["msg"]).replace("Input should be", "should be")
    return f"{words}, but is {error['input']!r}. Next: correct the value"


def _key(location: tuple[int | str, ...]) -> str:
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part + 1}]"
        elif part != "[key]":  # as pydantic calls a key that is itself in error
            key += ("." if key else "") + (part if part.isprintable() else repr(part))
    return key


def _nearest(location: tuple[int | str, ...]) -> str:
    """The keys that are possible there, the nearest first if one is near."""
    table: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, str) and part in table.model_fields:
            table = _table_of(table.model_fields[part].annotation) or table
    keys = sorted(table.model_fields)
    near = difflib.get_close_matches(str(location[-1]), keys, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"remove it (possible here: {', '.join(keys)})"


def _table_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (table := _table_of(part)) is not None:
            return table
    return None
