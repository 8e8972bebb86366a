"""Writes a new configuration as TOML, with comments that say what each part is."""

from collections.abc import Iterable

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.items import Array, InlineTable, Table

from ingest.setup import NewDrop, NewRule, Setup

_SHORT = 60  # characters of a list; a longer one is written a line for each value


def text_of(setup: Setup) -> str:
    """The configuration's text."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Configuration of openrem-ingest; the README tells of all keys."))
    document.add(tomlkit.comment("After a change start the service again: it reads this once."))
    if setup.notes:
        document.add(tomlkit.comment(""))
        document.add(tomlkit.comment("Not carried over, or to be filled in:"))
        for line in setup.notes:
            document.add(tomlkit.comment(_one_line(line)))
    document.add(tomlkit.nl())
    _add(document, "state_dir", setup.state_dir, "the ledger: what became of each file")
    document.add(tomlkit.nl())
    document.add("openrem", _openrem(setup))
    drops = tomlkit.aot()
    for drop in setup.drops:
        drops.append(_drop(drop))
    document.add("drop", drops)
    if setup.rules:
        rules = tomlkit.aot()
        for rule in setup.rules:
            rules.append(_rule(rule))
        document.add("rule", rules)
    quarantine = tomlkit.table()
    _add(quarantine, "path", setup.quarantine, "what can't be imported, each with its reason")
    document.add("quarantine", quarantine)
    return tomlkit.dumps(document)


def _add(table: TOMLDocument | Table, key: str, value: object, words: str) -> None:
    """A key with a comment behind it."""
    item = tomlkit.item(value)
    item.comment(_one_line(words))
    table.add(key, item)


def _openrem(setup: Setup) -> Table:
    table = tomlkit.table()
    _add(table, "python", setup.python, setup.python_note)
    _add(table, "workers", 2, "OpenREM processes kept warm")
    table.add(tomlkit.nl())
    return table


def _drop(drop: NewDrop) -> Table:
    table = tomlkit.table()
    if drop.why:
        table.add(tomlkit.comment(_one_line(drop.why)))
    table.add("path", drop.path)
    if drop.expect:
        expect = _list(importer.value for importer in drop.expect)
        _add(table, "expect", expect, "a hint that is checked, never a filter")
    _add(table, "after", "delete", "delete | archive | keep, once OpenREM provably holds it")
    return table


def _rule(rule: NewRule) -> Table:
    table = tomlkit.table()
    if rule.why:
        table.add(tomlkit.comment(_one_line(rule.why)))
    table.add("name", rule.name)
    table.add("match", _match(rule))
    table.add("then", rule.then)
    if rule.into:
        table.add("into", rule.into)
    if rule.zip:
        _add(table, "zip", rule.zip, "one file of each study")
    return table


def _match(rule: NewRule) -> InlineTable:
    table = tomlkit.inline_table()
    for subject, patterns in rule.match:
        table.append(subject, patterns[0] if len(patterns) == 1 else _list(patterns))
    return table


def _list(values: Iterable[str]) -> Array:
    array = tomlkit.array()
    array.extend(values)
    return array.multiline(multiline=len(array.as_string()) > _SHORT)


def _one_line(words: str) -> str:
    """A comment must not begin another line: what comes from elsewhere may have breaks in it."""
    return "".join(one if one.isprintable() else "?" for one in words)
