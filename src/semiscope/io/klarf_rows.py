"""What the two forms of a KLARF file have in common: tokens, defects, classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from semiscope.errors import DataError

_STRING = r'"[^"]*"'
FLAT = re.compile(rf'{_STRING}|;|[^\s;"]+')
NESTED = re.compile(rf'{_STRING}|[{{}};,]|[^\s{{}};,"]+')


@dataclass(frozen=True, slots=True)
class KlarfImage:
    """An image of a defect.

    Attributes:
        file: Its name as the file has it.
        page: Which image within that file, from 1 (in 1.8 as the file has it).
        label: What the tool says of it; "" when nothing.
    """

    file: str
    page: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class KlarfDefect:
    """A row of a defect list.

    Attributes:
        wafer: The wafer's name.
        values: The row by column, as text without quotes; lists of images apart.
        images: Of this defect.
        xy_um: (x, y) within its die, µm; None where the file does not tell.
    """

    wafer: str
    values: Mapping[str, str]
    images: tuple[KlarfImage, ...]
    xy_um: tuple[float, float] | None

    @property
    def name(self) -> str:
        """What tells it from the others of its wafer (DEFECTID)."""
        return self.values.get("DEFECTID", "")

    @property
    def class_number(self) -> int | None:
        """CLASSNUMBER; None when the file has none."""
        text = self.values.get("CLASSNUMBER", "")
        return int(text) if re.fullmatch(r"-?\d+", text) else None


class Token(NamedTuple):
    """A word, a quoted string or a sign of the file, and where it begins."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """Behind its last character."""
        return self.start + len(self.text)

    @property
    def value(self) -> str:
        """Without quotes."""
        return self.text[1:-1] if self.text.startswith('"') else self.text


@dataclass(slots=True)
class Table:
    """Rows with named columns, the token that tells how many there are, and where they end."""

    rows: list[list[Token]] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    count: Token | None = None
    end: int = 0


class Reader:
    """Reads a file's tokens one after the other and collects what both forms have.

    Attributes:
        pattern: What a token is.
        unit: Of coordinates, in a µm.
    """

    pattern = FLAT
    unit = 1.0

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path
        self.tokens = [Token(m.group(), m.start()) for m in self.pattern.finditer(text)]
        self.place = 0
        self.header: dict[str, tuple[str, ...]] = {}
        self.classes: dict[int, str] = {}
        self.lookup: Table | None = None
        self.wafer = ""
        self.defects: list[KlarfDefect] = []
        self.class_tokens: list[Token | None] = []

    def read(self) -> None:
        """Reads the file.

        Raises:
            DataError: It breaks the rules of its form.
        """
        raise NotImplementedError

    def fault(self, expected: str, token: Token | None) -> DataError:
        """An error that tells the line of a token; of the end when it is None."""
        at = token.start if token else len(self.text)
        line = self.text.count("\n", 0, at) + 1
        found = repr(token.text[:40]) if token else "the end of the file"
        return DataError(f"{self.path}: line {line}: expected {expected}, found {found}")

    def peek(self) -> Token | None:
        """The next token; None at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self, expected: str, exactly: str | None = None) -> Token:
        """The next token, which is passed; ``exactly`` is the only text that it may have."""
        token = self.peek()
        if token is None or (exactly is not None and token.text != exactly):
            raise self.fault(expected, token)
        self.place += 1
        return token

    def number(self, token: Token, what: str) -> int:
        """A token as a whole number."""
        try:
            return int(token.text)
        except ValueError:
            raise self.fault(what, token) from None

    def add_defect(self, cells: Mapping[str, Token], images: Sequence[KlarfImage]) -> None:
        """Takes in a row: its tokens by column, its images."""
        values = {name: token.value for name, token in cells.items()}
        xy: tuple[float, float] | None = None
        try:
            xy = float(values["XREL"]) / self.unit, float(values["YREL"]) / self.unit
        except (KeyError, ValueError):
            pass  # not told, or told as NA
        self.defects.append(KlarfDefect(self.wafer, values, tuple(images), xy))
        self.class_tokens.append(cells.get("CLASSNUMBER"))

    def set_lookup(self, table: Table) -> None:
        """Takes in the names of the classes."""
        self.lookup = table
        place = {name: i for i, name in enumerate(table.columns)}
        for row in table.rows:
            number = self.number(row[place["CLASSNUMBER"]], "a class number")
            self.classes[number] = row[place["CLASSNAME"]].value
