r"""Reads the settings at the top of a Lua script: literals only, and nothing is ever executed.

A setting is ``local name = literal`` outside of any function: text in quotes or in ``[[ ]]``, a
number, true, false, nil, or a list of these. All else at that level (an expression, a call, a
second assignment) is listed as unread with its line, and with the names that it mentions, because
it may change a setting. Of functions only their words are kept, so that one can be recognised.

The form of Lua's words is that of its reference manual, section 3.1. Lua's text is bytes; here it
has to be UTF-8.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ingest.errors import IngestError

Value = str | int | float | bool | tuple["Value", ...] | None

MAX_DEPTH = 20  # of tables within tables
_INTEGER_MAX = 2**63 - 1

_KEYWORDS = frozenset(
    {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if"}
    | {"in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while"}
)
_OPENS = frozenset({"function", "do", "if", "repeat"})  # of `while` and `for` it is their `do`
_CLOSES = frozenset({"end", "until"})
_BEGINS = frozenset({"local", "if", "for", "while", "repeat", "return", "goto", "break"})
_ENDS_A_VALUE = frozenset({")", "]", "}", "end", "nil", "true", "false", "..."})

_LINE_END = re.compile(r"\r\n|\n\r|\r")  # each is one line's end to Lua, in text as well
_BLANK = re.compile(r"[ \f\n\t\v]+")
_LONG = re.compile(r"\[(=*)\[")
_QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\\\n]|\\z[ \f\n\t\v]*|\\.)*)\1""", re.DOTALL)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIGN = re.compile(r"\.\.\.|\.\.|==|~=|<=|>=|<<|>>|//|::|[-+*/%^#&~|<>=(){}\[\];:,.]")
_ESCAPE = re.compile(
    r"\\(?:z[ \f\n\t\v]*|x([0-9a-fA-F]{2})|([0-9]{1,3})|u\{([0-9a-fA-F]{1,6})\}|(\n)|(.))",
    re.DOTALL,
)
_PLAIN_ESCAPES = dict(zip("abfnrtv\\\"'", "\a\b\f\n\r\t\v\\\"'", strict=True))


class LuaError(IngestError):
    """The script is not Lua: nothing of it can be read."""

    def __init__(self, line: int, what: str) -> None:
        """Keep the line, and what is wrong there."""
        super().__init__(f"line {line}: {what}")
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """``local name = literal``."""

    name: str
    value: Value
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A statement beside the functions that is no setting."""

    line: int
    why: str
    names: frozenset[str]  # that it mentions


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of the script, by its words: without comments, text in one form of quotes."""

    name: str
    line: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What was read of a script."""

    settings: Mapping[str, Setting]
    unread: tuple[Unread, ...]
    functions: Mapping[str, Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str  # name | keyword | text | number | sign | end
    word: str
    line: int
    value: str | int | float = ""
    problem: str = ""  # why it has no value


class _NoLiteral(Exception):
    """What stands there is no literal."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line, self.why = line, why


def read(text: str) -> Script:
    """Read a script.

    Args:
        text: the whole script; decoded with ``surrogateescape``, so that odd bytes in a comment
            do no harm.

    Raises:
        LuaError: it is not Lua.
    """
    plain = _LINE_END.sub("\n", text).removeprefix("\ufeff")  # which some editors put first
    return _Reader(list(_tokens(plain))).script()


# -- words -----------------------------------------------------------------------------------------


def _tokens(text: str) -> Iterator[_Token]:
    place = len(text.partition("\n")[0]) if text.startswith("#") else 0
    line = 1
    while place < len(text):
        end, token = _token(text, place, line)
        if token is not None:
            yield token
        line += text.count("\n", place, end)
        place = end
    yield _Token(kind="end", word="", line=line)


def _token(text: str, place: int, line: int) -> tuple[int, _Token | None]:
    """One word, or none where there is a blank or a comment; and where it ends."""
    if (passed := _passed(text, place, line)) > place:
        return passed, None
    if (opening := _LONG.match(text, place)) is not None:
        end, inner = _long(text, opening, line, "text")
        value, problem = _checked(inner.removeprefix("\n"))
        return end, _text_token(text[place:end], line, value, problem)
    if text[place] in "\"'":
        return _quoted(text, place, line)
    if (number := _NUMBER.match(text, place)) is not None:
        return _number(text, number, line)
    if (word := _NAME.match(text, place) or _SIGN.match(text, place)) is not None:
        return word.end(), _Token(kind=_kind_of(word[0]), word=word[0], line=line)
    raise LuaError(line, f"{text[place]!a} does not belong into a Lua script")


def _passed(text: str, place: int, line: int) -> int:
    """Where blanks or a comment end; the place itself if there are none."""
    if (blank := _BLANK.match(text, place)) is not None:
        return blank.end()
    return _comment(text, place, line) if text.startswith("--", place) else place


def _kind_of(word: str) -> str:
    if word in _KEYWORDS:
        return "keyword"
    return "name" if _NAME.match(word) else "sign"


def _comment(text: str, place: int, line: int) -> int:
    if (opening := _LONG.match(text, place + 2)) is not None:
        return _long(text, opening, line, "comment")[0]
    end = text.find("\n", place)
    return end if end >= 0 else len(text)


def _long(text: str, opening: re.Match[str], line: int, what: str) -> tuple[int, str]:
    closing = f"]{opening[1]}]"
    end = text.find(closing, opening.end())
    if end < 0:
        raise LuaError(line, f"the {what} that begins here has no end")
    return end + len(closing), text[opening.end() : end]


def _quoted(text: str, place: int, line: int) -> tuple[int, _Token]:
    match = _QUOTED.match(text, place)
    if match is None:
        raise LuaError(line, "the text that begins here has no closing quote on its line")
    try:
        value, problem = _checked(_unescaped(match[2], line))
    except _NoLiteral as error:
        value, problem = "", error.why
    return match.end(), _text_token(match[0], line, value, problem)


def _text_token(word: str, line: int, value: str, problem: str) -> _Token:
    one_form = word if problem else json.dumps(value)
    return _Token(kind="text", word=one_form, line=line, value=value, problem=problem)


def _checked(value: str) -> tuple[str, str]:
    """The text, and what is wrong with it. Bytes that are no UTF-8 came as lone surrogates."""
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8"), ""
    except UnicodeError:
        return "", "is text that is not in UTF-8"


def _unescaped(raw: str, line: int) -> str:
    result = bytearray()
    place = 0
    for match in _ESCAPE.finditer(raw):
        result += _bytes(raw[place : match.start()])
        result += _escaped(match, line)
        place = match.end()
    result += _bytes(raw[place:])
    return result.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass" if _is_odd(text) else "surrogateescape")


def _is_odd(text: str) -> bool:
    """Are there surrogates that stand for no byte?"""
    return any("\ud800" <= one <= "\udfff" and not "\udc80" <= one <= "\udcff" for one in text)


def _escaped(match: re.Match[str], line: int) -> bytes:
    """What an escape stands for (Lua reference manual, section 3.1)."""
    in_hex, in_decimal, code_point, newline, plain = match.groups()
    if in_hex:
        return bytes([int(in_hex, 16)])
    if in_decimal:
        if int(in_decimal) > 255:  # noqa: PLR2004 - a byte
            raise _NoLiteral(line, f"has {match[0]}, which is no byte")
        return bytes([int(in_decimal)])
    if code_point:
        return _character(int(code_point, 16), match[0], line)
    if newline:
        return b"\n"
    if plain is None:  # \z and the blanks behind it
        return b""
    if plain not in _PLAIN_ESCAPES:
        raise _NoLiteral(line, rf"has \{plain!a} in it; a backslash itself is written \\")
    return _PLAIN_ESCAPES[plain].encode()


def _character(number: int, escape: str, line: int) -> bytes:
    try:
        return chr(number).encode()
    except (ValueError, OverflowError):  # beyond Unicode, or one half of a pair
        raise _NoLiteral(line, f"has {escape}, which is no character") from None


def _number(text: str, match: re.Match[str], line: int) -> tuple[int, _Token]:
    word = match[0]
    if _NAME.match(text, match.end()):
        raise LuaError(line, f"{word[:20]} is followed by letters")
    value: int | float = 0
    problem = ""
    if len(word) > 40:  # noqa: PLR2004 - longer than any number that is meant
        problem = "is a number that is too long"
    elif word[:2].lower() == "0x":
        value = int(word, 16)
    elif word.isdigit():
        value = int(word)
    else:
        value = float(word)
    if value > _INTEGER_MAX:
        problem = "is a number that is too large"
    return match.end(), _Token(kind="number", word=word, line=line, value=value, problem=problem)


# -- statements ------------------------------------------------------------------------------------


class _Reader:
    """Goes over the words once, statement by statement."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._settings: dict[str, Setting] = {}
        self._unread: list[Unread] = []
        self._functions: dict[str, Function] = {}
        self._first: dict[str, int] = {}  # the line in which a name was first set

    def script(self) -> Script:
        while self._now.kind != "end":
            if not (self._function() or self._setting()):
                self._skip(self._at, "is no setting")
        return Script(
            settings=MappingProxyType(self._settings),
            unread=tuple(self._unread),
            functions=MappingProxyType(self._functions),
        )

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _ahead(self, number: int) -> _Token:
        return self._tokens[min(self._at + number, len(self._tokens) - 1)]

    def _function(self) -> bool:
        """``function name`` or ``local function name``, to its end."""
        is_local = self._now.word == "local"
        keyword, name = (
            (self._ahead(1), self._ahead(2)) if is_local else (self._now, self._ahead(1))
        )
        if keyword.word != "function" or keyword.kind != "keyword" or name.kind != "name":
            return False
        first = self._at
        self._at += 2 if is_local else 1
        depth = 1
        while depth:
            if self._now.kind == "end":
                raise LuaError(keyword.line, f"the function {name.word} has no end")
            depth += self._depth_of(self._now)
            self._at += 1
        words = tuple(token.word for token in self._tokens[first : self._at])
        self._functions[name.word] = Function(name=name.word, line=keyword.line, words=words)
        return True

    @staticmethod
    def _depth_of(token: _Token) -> int:
        if token.kind != "keyword":
            return 0
        return (token.word in _OPENS) - (token.word in _CLOSES)

    def _setting(self) -> bool:
        """``local name = literal``; False where it is another statement."""
        if self._now.word == ";":
            self._at += 1
            return True
        name = self._ahead(1)
        if self._now.word != "local" or name.kind != "name" or self._ahead(2).word != "=":
            return False
        first = self._at
        self._at += 3
        try:
            value = self._literal(0)
            self._check_end(name)
            self._check_place(name)
        except _NoLiteral as error:
            self._skip(first, error.why)
        else:
            self._settings[name.word] = Setting(name=name.word, value=value, line=name.line)
        return True

    def _check_end(self, name: _Token) -> None:
        """A literal that goes on with an operator is an expression."""
        token = self._now
        if token.kind in {"name", "end"} or token.word in {";", "::"}:
            return
        if token.kind == "keyword" and token.word in _BEGINS | {"function", "do"}:
            return
        raise _NoLiteral(name.line, "is an expression, not a plain value")

    def _check_place(self, name: _Token) -> None:
        if self._functions:
            raise _NoLiteral(name.line, "stands below a function, which does not see it")
        first = self._first.setdefault(name.word, name.line)
        if self._settings.pop(name.word, None) is not None or first != name.line:
            raise _NoLiteral(name.line, f"is set twice, first in line {first}")

    def _literal(self, depth: int) -> Value:
        token = self._now
        self._at += 1
        if token.problem:
            raise _NoLiteral(token.line, token.problem)
        if token.kind in {"text", "number"}:
            return token.value
        if token.word == "-" and self._now.kind == "number" and not self._now.problem:
            self._at += 1
            value = self._tokens[self._at - 1].value
            assert not isinstance(value, str)  # noqa: S101 - it is a number
            return -value
        match token.word:
            case "true" | "false":
                return token.word == "true"
            case "nil":
                return None
            case "{":
                return self._table(depth + 1)
            case _:
                pass
        raise _NoLiteral(token.line, "is an expression or a call, not a plain value")

    def _table(self, depth: int) -> tuple[Value, ...]:
        if depth > MAX_DEPTH:
            raise _NoLiteral(self._now.line, "has lists within lists without end")
        values: list[Value] = []
        while self._now.word != "}" or self._now.kind != "sign":
            if self._now.word == "[" or (self._now.kind == "name" and self._ahead(1).word == "="):
                raise _NoLiteral(self._now.line, "is a table with keys, not a plain list")
            value = self._literal(depth)
            if value is None:
                raise _NoLiteral(self._now.line, "has nil in a list")
            values.append(value)
            if self._now.kind == "sign" and self._now.word in {",", ";"}:
                self._at += 1
            elif self._now.word != "}":
                raise _NoLiteral(self._now.line, "has an expression in a list")
        self._at += 1
        return tuple(values)

    def _skip(self, first: int, why: str) -> None:
        """Over the statement that begins there, as far as can be told without knowing all Lua."""
        self._at = first
        depth = brackets = 0
        while self._now.kind != "end":
            token = self._now
            if self._at > first and not depth and not brackets and self._begins():
                break
            depth += self._depth_of(token)
            if depth < 0:
                raise LuaError(token.line, f"there is a {token.word} too many")
            if token.kind == "sign":
                brackets += (token.word in {"(", "{", "["}) - (token.word in {")", "}", "]"})
            self._at += 1
        if depth or brackets:
            raise LuaError(self._tokens[first].line, "the statement that begins here has no end")
        statement = self._tokens[first : self._at]
        names = frozenset(token.word for token in statement if token.kind == "name")
        self._unread.append(Unread(line=statement[0].line, why=why, names=names))

    def _begins(self) -> bool:
        """Does another statement begin here?"""
        token, before = self._now, self._tokens[self._at - 1]
        if token.kind == "keyword":
            is_named = token.word == "function" and self._ahead(1).kind == "name"
            return (token.word in _BEGINS and before.word != "local") or is_named
        if token.word == ";" and token.kind == "sign":
            return True
        ends = before.kind in {"name", "text", "number"} or before.word in _ENDS_A_VALUE
        return token.kind == "name" and token.line > before.line and ends
