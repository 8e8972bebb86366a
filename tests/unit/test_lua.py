"""`ingest.lua`: literals are read as Lua has them; all else is told, and nothing is run."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lupa.lua53 import LuaRuntime

from ingest import lua
from ingest.lua import LuaError, Script, read

REAL = LuaRuntime(register_eval=False, encoding=None)  # text is bytes there

SCRIPT = """
-- settings
local folder = 'E:\\\\dose\\\\' -- "not" this
local names = {'a', "b'", [[c
d]], [==[ ]] ]==], 5, -2.5, true}
local pairs_of = {
    {'x', 'y'};
    {"z", 'w'},
}
--[[ local hidden = 1
]]
local is_on, other = true, false
local empty = {} local is_off = false
local late
function f(x)
    if x then for i = 1, 2 do repeat local inner = 1 until true end end
    return function() return 'end' end
end
local below = 1
"""


def values(script: Script) -> dict[str, lua.Value]:
    return {name: setting.value for name, setting in script.settings.items()}


def test_settings_are_read_with_their_lines() -> None:
    script = read(SCRIPT)

    assert values(script) == {
        "folder": "E:\\dose\\",
        "names": ("a", "b'", "c\nd", " ]] ", 5, -2.5, True),
        "pairs_of": (("x", "y"), ("z", "w")),
        "empty": (),
        "is_off": False,
    }
    assert {name: setting.line for name, setting in script.settings.items()} == {
        "folder": 3,
        "names": 4,
        "pairs_of": 6,
        "empty": 13,
        "is_off": 13,
    }
    assert [(one.line, one.names) for one in script.unread] == [
        (12, frozenset({"is_on", "other"})),
        (14, frozenset({"late"})),
        (19, frozenset({"below"})),
    ]
    assert [(one.name, one.line) for one in script.functions.values()] == [("f", 15)]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("local a = 'x' .. 'y'", "expression"),
        ("local a = f('x')", "expression or a call"),
        ("local a = other", "expression or a call"),
        ("local a = 1 + 2", "expression"),
        ("local a = (1)", "expression or a call"),
        ("local a = {}.x", "expression"),
        ("local a = ('x'):rep(3)", "expression or a call"),
        ("local a = {'x', f()}", "expression or a call"),
        ("local a = {'x' .. 'y'}", "expression in a list"),
        ("local a = {1, nil, 2}", "nil in a list"),
        ("local a = {['k'] = 1}", "keys"),
        ("local a = {k = 1}", "keys"),
        ("local a = function() return 1 end", "expression or a call"),
        ("local a = 0xffffffffffffffffff", "too large"),
        ("local a = 'E:\\dose'", "backslash"),
        ("local a = '\\300'", "no byte"),
        ("local a = '\\200'", "not in UTF-8"),
        ("local a = '\\u{110000}'", "no character"),
        ("a = 'x'", "no setting"),
        ("a[1] = 'x'", "no setting"),
        ("table.insert(a, 'x')", "no setting"),
        ("if a then\n a = {'x'}\nend", "no setting"),
        ("for i = 1, 3 do a[i] = nil end", "no setting"),
        ("do local a = 1 end", "no setting"),
        ("local a = " + "{" * 200 + "}" * 200, "without end"),
    ],
)
def test_what_is_no_plain_value_is_told_with_its_line(statement: str, why: str) -> None:
    """And what stands around it is read."""
    script = read(f"local before = 1\n\n{statement}\nlocal after = 2\n")

    assert values(script) == {"before": 1, "after": 2}
    (unread,) = script.unread
    assert unread.line == 3
    assert why in unread.why
    assert "a" in unread.names


@pytest.mark.parametrize(
    "twice",
    ["local a = 1\nlocal a = 2\n", "local a = 1\nlocal a = f()\nlocal a = 3\nlocal a = 4\n"],
)
def test_what_is_set_twice_is_not_taken_for_either(twice: str) -> None:
    script = read(twice)

    assert script.settings == {}
    assert any("twice, first in line 1" in one.why for one in script.unread)


def test_what_editors_and_systems_put_first_is_passed_over() -> None:
    """A byte order mark; the name of an interpreter."""
    for first in ("\ufeff", "#!/usr/bin/lua\n", "\ufeff#!/usr/bin/lua\n"):
        assert values(read(f"{first}local a = 1")) == {"a": 1}


def test_what_stands_below_a_function_is_not_seen_by_it() -> None:
    script = read("function f() return a end\nlocal a = 1")

    assert script.settings == {}
    assert "below a function" in script.unread[0].why


def test_a_function_is_the_same_whatever_its_blanks_quotes_and_comments() -> None:
    plain = read("function f(x) return x == 'a' end").functions["f"]
    other = read('local y = 1\nfunction f ( x )\n  -- here\n  return x=="\\97" end').functions["f"]

    assert plain.words == other.words
    assert plain.words != read("function f(x) return x == 'b' end").functions["f"].words


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\nlocal a = 'x\n'", 2),
        ("local a = [[x", 1),
        ("\n\n--[==[ x ]=]", 3),
        ("local a = 1\nfunction f() if x then end", 2),
        ("local a = 5x", 1),
        ("local a = `x`", 1),
        ("\nend", 2),
        ("x = {", 1),
        ("local a = 'x\\", 1),
    ],
)
def test_what_is_not_lua_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(LuaError, match=f"^line {line}: ") as caught:
        read(text)

    assert caught.value.line == line
    assert len(str(caught.value).splitlines()) == 1


PIECES = st.sampled_from(
    (
        *("'", '"', "[[", "]]", "[=[", "]=]", "{", "}", ",", ";", "-", "--", "--[[", "(", ")"),
        *("\n", "\r\n", "\\", "\\n", "\\z", "\\x41", "\\x", "\\97", "\\300", "\\u{e9}", "é"),
        *("0x1F", "12", "1.5", ".5", "1e3", "3.", "08", "true", "false", "nil", " ", "=", ".."),
        *("a", "local b = ", "local", "end", "function", "do", "if"),
    )
) | st.characters(max_codepoint=127)
sources = st.lists(PIECES, max_size=12).map("".join)
insides = st.lists(PIECES, max_size=6).map("".join)
literals = st.recursive(
    insides.map(lambda text: f"'{text}'")
    | insides.map(lambda text: f'"{text}"')
    | insides.map(lambda text: f"[=[{text}]=]")
    | st.sampled_from(("1", "-2", "0x1f", "2.5", "-.5e1", "true", "false")),
    lambda inner: st.lists(inner, max_size=4).map(lambda some: "{" + ", ".join(some) + "}"),
    max_leaves=6,
)


def as_bytes(value: object) -> object:
    """A value of ours as real Lua has it."""
    if isinstance(value, tuple):
        return [as_bytes(one) for one in value]
    return value.encode() if isinstance(value, str) else value


def as_lists(value: object) -> object:
    if hasattr(value, "values"):
        return [as_lists(one) for one in value.values()]
    return value


@given(source=literals | sources)
@example(source="'a\\z  \n  b'")
@example(source="'\\065\\x42\\u{20AC}\\\nz'")
@example(source="[==[\n]]x]==]")
@example(source="{{'a', 2}, {}, -0x10, 1e3,}")
@example(source="{'a'; [[b]]}local b = 5")
@example(source="'\\9a'")
@example(source="--[[x]]'y'")
@example(source="[[\r\na\rb\n\rc]]")
def test_whatever_is_read_real_lua_reads_the_same(source: str) -> None:
    """A script in which nothing is left unread is Lua, and its values are Lua's."""
    text = f"local setting = {source}"
    try:
        script = read(text)
    except LuaError:
        return
    if script.unread or script.functions:
        return
    value = REAL.execute(f"{text}\nreturn setting".encode())
    assert as_lists(value) == as_bytes(script.settings["setting"].value)


@given(text=st.text() | sources)
@example(text="local a = " + "{" * 100_000)
@example(text="local a = \ud800'\udc80'")
@example(text="local a = '\ud800'")
@example(text="local a = 1" + "0" * 10_000)
@example(text="local a = -")
@example(text="local")
@example(text="function f")
@example(text="#!/usr/bin/lua")
@example(text="local a = {")
@example(text="local a = {'x'")
def test_no_text_breaks_the_reader(text: str) -> None:
    assert 1 <= last_line(text) <= len(re.findall(r"\n|\r", text)) + 1


@given(place=st.integers(0, len(SCRIPT)), piece=PIECES | st.just(""), cut=st.integers(0, 30))
def test_no_change_to_a_script_breaks_the_reader(place: int, piece: str, cut: int) -> None:
    """Something put in, something taken out, or the rest cut off."""
    for text in (SCRIPT[:place], SCRIPT[:place] + piece + SCRIPT[place + cut :]):
        assert 1 <= last_line(text) <= len(re.findall(r"\n|\r", text)) + 1


def last_line(text: str) -> int:
    """The last line that is told of, be it as an error."""
    try:
        script = read(text)
    except LuaError as error:
        return error.line
    told = [one.line for one in script.unread]
    told += [one.line for one in script.settings.values()]
    return max([*told, 1])
