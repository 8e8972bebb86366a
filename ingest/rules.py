"""Decides what is to happen to an object: the user's rules first, then the built-in routing.

A pure function of the header, the drop folder, and those elements of the object that the rules
ask for. The first rule that matches decides. An object that can't be read has no header and so
never comes here: no rule can have it deleted.

What a rule says must be done is done on the strength of a ``Ruling``, which only this module
makes, as only verify.py makes a ``Proof``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import assert_never

from pydicom.uid import UID

from ingest.errors import Reason
from ingest.model import Decision, Header, Ignore, Import, Importer, Keep, Reject, Snapshot
from ingest.routing import check_study_time, route

DROP = "drop"  # the name of the drop folder
IMPORTER = "importer"  # that of the built-in routing, or "none"
SOP_CLASS = "sop_class"  # the SOP class by its name or UID
SPECIAL = frozenset({DROP, IMPORTER, SOP_CLASS})

Values = Mapping[str, tuple[str, ...]]  # of elements, by keyword
_NO_VALUES: Values = MappingProxyType({})


class Then(Enum):
    """What a rule has happen."""

    IGNORE = "ignore"
    KEEP = "keep"
    QUARANTINE = "quarantine"
    IMPORT = "import"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that must be so: some value of the subject is like some pattern."""

    subject: str  # a keyword of an element (PS3.6), or one of SPECIAL
    patterns: tuple[str, ...]  # globs, case-blind

    def holds(self, values: Iterable[str]) -> bool:
        """Is one of the values like one of the patterns? A missing element is as an empty one.

        Several values are also taken together, as they stand in the object: with backslashes
        between them.
        """
        candidates = [value.casefold() for value in values]
        if len(candidates) != 1:
            candidates.append("\\".join(candidates))
        patterns = [pattern.casefold() for pattern in self.patterns]
        return any(fnmatchcase(value, pattern) for value in candidates for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of the user's: all its conditions must hold."""

    name: str
    conditions: tuple[Condition, ...]
    then: Then
    importer: Importer | None = None  # for IMPORT
    into: bytes | None = None  # for KEEP; for IGNORE the archive, without which it is deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A rule of the user's says that this version of a complete object is not to be imported."""

    snapshot: Snapshot
    rule: str


def keywords_of(rules: Iterable[Rule]) -> frozenset[str]:
    """The elements that these rules ask for."""
    return frozenset(
        condition.subject
        for rule in rules
        for condition in rule.conditions
        if condition.subject not in SPECIAL
    )


def decide(
    header: Header, rules: Sequence[Rule] = (), *, drop: str = "", values: Values = _NO_VALUES
) -> Decision:
    """What is to happen to an object.

    Args:
        header: of a complete object.
        rules: the user's, in their order.
        drop: the name of the drop folder that it lies in.
        values: of the elements that the rules ask for.
    """
    built_in = route(header)
    for rule in rules:
        if all(
            condition.holds(_values_of(condition.subject, header, built_in, drop, values))
            for condition in rule.conditions
        ):
            return _ruled(rule, header)
    return built_in


def _values_of(
    subject: str, header: Header, built_in: Import | Reject, drop: str, values: Values
) -> tuple[str, ...]:
    match subject:
        case "drop":
            return (drop,)
        case "importer":
            return (built_in.importer.value if isinstance(built_in, Import) else "none",)
        case "sop_class":
            return (header.sop_class_uid, UID(header.sop_class_uid).name)
        case keyword:
            return values.get(keyword, ())


def _ruled(rule: Rule, header: Header) -> Decision:
    because = f'rule "{rule.name}" says so'
    match rule.then:
        case Then.IGNORE:
            return Ignore(rule=rule.name, into=rule.into, because=because)
        case Then.KEEP:
            assert rule.into is not None  # noqa: S101 - the configuration demands it
            return Keep(rule=rule.name, into=rule.into, because=because)
        case Then.QUARANTINE:
            return Reject(reason=Reason.BY_RULE, because=because, rule=rule.name)
        case Then.IMPORT:
            assert rule.importer is not None  # noqa: S101 - the configuration demands it
            return check_study_time(
                header, Import(importer=rule.importer, because=because, rule=rule.name)
            )
        case then:
            assert_never(then)


def ruling(decision: Ignore | Keep, header: Header, snapshot: Snapshot) -> Ruling:
    """What a rule's decision on an object gives the right to.

    Args:
        decision: the rule's.
        header: of the complete object that was decided on.
        snapshot: the version of its file that was read.
    """
    assert header.sop_instance_uid  # noqa: S101 - a header is of a complete object with its UIDs
    return Ruling(snapshot=snapshot, rule=decision.rule)
