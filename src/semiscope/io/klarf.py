"""KLARF 1.1, 1.2 and 1.8: the defect lists that inspection and review tools of fabs exchange.

A file is kept as it was written, and what is changed is changed in place: everything that is not
understood here survives, to the last blank. 1.2 is a row of statements that end with a semicolon;
1.8 nests records, fields and lists in braces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from semiscope.errors import DataError
from semiscope.io.files import write_atomic
from semiscope.io.klarf_forms import Flat, Nested
from semiscope.io.klarf_rows import NESTED, KlarfDefect, KlarfImage, Reader, Table, Token

__all__ = ["Klarf", "KlarfDefect", "KlarfImage", "parse_klarf", "read_klarf", "write_klarf"]

_ANY_BYTES = "surrogateescape"  # bytes that are no UTF-8 survive too


@dataclass(frozen=True, slots=True)
class Klarf:
    """A defect list.

    Attributes:
        path: Where it was read from.
        version: "1.1", "1.2" or "1.8".
        header: Every statement or field outside of lists, by its name, the first of a name.
        classes: Names by class number.
        defects: In the order of the file.
        text: The whole file.
    """

    path: Path
    version: str
    header: Mapping[str, tuple[str, ...]]
    classes: Mapping[int, str]
    defects: tuple[KlarfDefect, ...]
    text: str
    _class_tokens: tuple[Token | None, ...]
    _lookup: Table | None

    def classified(self, numbers: Mapping[int, int], names: Mapping[int, str]) -> Klarf:
        """The same list with other classes; all else stays as it is.

        Args:
            numbers: Class number by place in ``defects``.
            names: Of the class numbers that the list does not know yet.

        Raises:
            DataError: A defect has no column CLASSNUMBER, or a number has no name.
        """
        changes: list[tuple[int, int, str]] = []
        for place, number in numbers.items():
            token = self._class_tokens[place]
            if token is None:
                raise DataError(
                    f"{self.path}: expected a column CLASSNUMBER, found none for defect "
                    f"{self.defects[place].name}"
                )
            changes.append((token.start, token.end, str(number)))
        new = sorted(set(numbers.values()) - self.classes.keys())
        unnamed = [n for n in new if n not in names]
        if unnamed:
            raise DataError(f"{self.path}: expected a name for class {unnamed[0]}, found none")
        changes += self._lookup_changes({n: names[n] for n in new})
        parts, done = [], 0
        for start, end, replacement in sorted(changes):
            parts += [self.text[done:start], replacement]
            done = end
        return parse_klarf("".join(parts) + self.text[done:], self.path)

    def _lookup_changes(self, new: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
        if not new:
            return
        table = self._lookup
        if table is None or table.count is None:
            raise DataError(f"{self.path}: expected a list of classes to add to, found none")
        count = table.count
        yield count.start, count.end, str(len(table.rows) + len(new))
        lines = ""
        for number, name in new.items():
            cells = {"CLASSNUMBER": str(number), "CLASSNAME": f'"{name.replace(chr(34), chr(39))}"'}
            row = " ".join(cells.get(column, '""') for column in table.columns)
            lines += f"\n  {row}" + (";" if self.version == "1.8" else "")
        yield table.end, table.end, lines


def read_klarf(path: Path) -> Klarf:
    """Reads a defect list.

    Raises:
        DataError: The file cannot be read or is no KLARF 1.1, 1.2 or 1.8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_klarf(data.decode("utf-8", _ANY_BYTES), path)


def write_klarf(klarf: Klarf, path: Path) -> None:
    """Writes a defect list, whole or not at all.

    Raises:
        SemiscopeError: It cannot be written.
    """
    write_atomic(path, klarf.text.encode("utf-8", _ANY_BYTES))


def parse_klarf(text: str, path: Path) -> Klarf:
    """A defect list from its text; ``path`` is for messages.

    Raises:
        DataError: The text is no KLARF 1.1, 1.2 or 1.8.
    """
    words = [match.group() for match in islice(NESTED.finditer(text), 3)]
    reader: Reader
    if words[:2] == ["FileVersion", "1"] and words[2:] in (["1"], ["2"]):
        version, reader = f"1.{words[2]}", Flat(text, path)
    elif words == ["Record", "FileRecord", '"1.8"']:
        version, reader = "1.8", Nested(text, path)
    else:
        raise DataError(
            f"{path}: expected KLARF 1.1, 1.2 or 1.8, found a file that begins with "
            f"{' '.join(words)[:60]!r}"
        )
    reader.read()
    return Klarf(
        path,
        version,
        reader.header,
        reader.classes,
        tuple(reader.defects),
        text,
        tuple(reader.class_tokens),
        reader.lookup,
    )
