"""Reads the configuration: TOML in, frozen settings out, one line naming key and remedy if not."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from ingest.errors import ConfigError
from ingest.model import Importer

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
_PLANNED = frozenset({("rule",), ("openrem", "command"), ("openrem", "paths")})


def _is_on(path: Path, mount: str) -> bool:
    return mount in {"auto", "none"} or path.is_relative_to(mount)


class _Table(BaseModel):
    """A table of the configuration: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenRem(_Table):
    """`[openrem]`: how OpenREM is called."""

    python: AbsolutePath
    importer: Literal["worker"] = "worker"
    workers: Annotated[int, Field(ge=1, le=16)] = 2
    env: dict[str, str] = Field(default_factory=dict)
    timeout: Seconds = 900.0  # seconds for one import, then its worker is given up
    memory: Annotated[int, Field(ge=256)] = 2048  # MiB for each worker, then the import is undone
    demo_site: AbsolutePath | None = None  # a private OpenREM: its database is started for us


class Drop(_Table):
    """`[[drop]]`: one watched folder."""

    path: AbsolutePath
    name: Annotated[str, AfterValidator(_plain)] = ""  # the folder's own where it isn't given
    expect: tuple[Importer, ...] = ()
    after: Literal["delete", "archive", "keep"] = "delete"
    watch: Literal["auto", "native", "poll"] = "auto"
    archive: AbsolutePath | None = None
    mount: Mount = "auto"  # what must be mounted for it
    archive_mount: Mount = "auto"  # and for its archive

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


class Settle(_Table):
    """`[settle]`: when a file counts as complete. Seconds."""

    quiet: Seconds = 2.0  # without change, where an open writer can't be seen
    network_quiet: Seconds = 15.0  # the same on network file systems
    incomplete_after: Seconds = 3600.0  # then quarantined as truncated
    tidy_after: Seconds = 10.0  # then an emptied sub-folder is removed


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
    settle: Settle = Settle()
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
    def _paths_are_apart(self) -> "Settings":
        paths = [drop.path for drop in self.drop]
        if len(set(paths)) < len(paths):
            raise ValueError("drop: two drop folders have the same path; give each its own")
        others = [("state_dir", self.state_dir)]
        if self.quarantine_path is not None:
            others.append(("quarantine.path", self.quarantine_path))
        for number, drop in enumerate(self.drop, start=1):
            if drop.archive is not None:
                others.append((f"drop[{number}].archive", drop.archive))
            if self.quarantine_path is not None:
                others.append(("quarantine.path", self.quarantine_path / drop.name))
        for key, other in others:
            if other in paths:
                raise ValueError(f"{key}: {other} is a drop folder; give it a folder of its own")
        return self


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
        "or make a whole trial set-up with: openrem-ingest demo"
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
        remedy = "[[drop]], with two brackets" if key == "drop" else f'{last} = ["…"]'
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
        else:
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
