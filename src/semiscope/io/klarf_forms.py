"""The two forms of a KLARF file: statements in a row (1.1, 1.2) and nested records (1.8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from semiscope.io.klarf_rows import NESTED, KlarfImage, Reader, Table, Token

_NM_PER_UM = 1000.0
_DEPTH = {"{": 1, "}": -1}
_IMAGE = 4  # words of an image in 1.8: file, type, number, label


class Flat(Reader):
    """1.1 and 1.2."""

    def read(self) -> None:
        """See ``Reader``."""
        columns: tuple[str, ...] = ()
        file = ""
        while self.peek() is not None:
            key = self.take("a statement")
            first = self.place
            if key.text == "EndOfFile":
                break
            words = list(takewhile(lambda t: t.text != ";", islice(self.tokens, first, None)))
            self.place += len(words)
            self.take(f"; after {key.text}", ";")
            if key.text == "TiffFileName":
                # names with blanks are not always quoted
                end = self.tokens[self.place - 1].start
                file = self.text[key.end : end].strip().strip('"')
            elif key.text == "DefectRecordSpec" and words:
                columns = tuple(w.value for w in words[1:])
                if self.number(words[0], "the number of columns") != len(columns):
                    raise self.fault(f"{len(columns)} columns, as many as are named", words[0])
            elif key.text == "DefectList":
                self._rows(words, columns, file)
            elif key.text == "ClassLookup" and words:
                self.set_lookup(self._classes(words))
            elif key.text == "WaferID" and words:
                self.wafer = words[0].value
            self.header.setdefault(key.text, tuple(w.value for w in words))
        self.header.pop("DefectList", None)

    def _classes(self, words: Sequence[Token]) -> Table:
        if len(words) % 2 == 0:
            raise self.fault("a number and a name for each class", words[-1])
        rows = [list(words[i : i + 2]) for i in range(1, len(words), 2)]
        return Table(rows, ("CLASSNUMBER", "CLASSNAME"), words[0], words[-1].end)

    def _rows(self, words: Sequence[Token], columns: Sequence[str], file: str) -> None:
        if words and not columns:
            raise self.fault("DefectRecordSpec before the defects", words[0])
        at = iter(words)
        for first in at:
            cells: dict[str, Token] = {}
            images: list[KlarfImage] = []
            for i, name in enumerate(columns):
                cell = first if i == 0 else self._next(at, name)
                if name != "IMAGELIST":
                    cells[name] = cell
                    continue
                for _ in range(self.number(cell, "the number of images")):
                    page = self.number(self._next(at, name), "the number of an image")
                    images.append(KlarfImage(file, page, self._next(at, name).value))
            self.add_defect(cells, images)

    def _next(self, at: Iterator[Token], name: str) -> Token:
        token = next(at, None)
        if token is None:
            raise self.fault(f"a value for {name}", self.tokens[self.place - 1])
        return token


class Nested(Reader):
    """1.8."""

    pattern = NESTED
    unit = _NM_PER_UM

    def read(self) -> None:
        """See ``Reader``."""
        depth = 0
        while self.peek() is not None:
            token = self.take("an item")
            if token.text == "Record":
                self._record()
                depth += 1
            elif token.text == "Field":
                name = self.take("a field's name").value
                values = [t.value for t in self._braced() if t.text != ","]
                self.header.setdefault(name, tuple(values))
            elif token.text == "List":
                self._list()
            elif token.text in "{}":
                depth += 1 if token.text == "{" else -1
        if depth:
            raise self.fault("} for every {", None)

    def _record(self) -> None:
        kind = self.take("a record's kind").value
        name = ""
        token = self.take("a record's name or {")
        if token.text != "{":
            name = token.value
            self.take("{ after a record's name", "{")
        if kind == "WaferRecord":
            self.wafer = name
        self.header.setdefault(kind, (name,))

    def _braced(self) -> list[Token]:
        """What stands in ``n { ... }``, braces within braces included."""
        self.number(self.take("a count"), "a count")
        self.take("{", "{")
        first, depth = self.place, 1
        while depth:
            depth += _DEPTH.get(self.take("}").text, 0)
        return self.tokens[first : self.place - 1]

    def _list(self) -> None:
        name = self.take("a list's name").value
        self.take("{ after a list's name", "{")
        columns: list[str] = []
        while self.take("Columns, Data or }").text != "}":
            key = self.tokens[self.place - 1]
            count = self.peek()
            found = self._braced()
            if key.text == "Columns":
                words = [t for t in found if t.text != ","]
                columns = [t.value for t in words[1::2]]
            elif key.text == "Data":
                self._data(name, columns, found, count)

    def _data(
        self, name: str, columns: Sequence[str], found: Sequence[Token], count: Token | None
    ) -> None:
        """The rows of a list, if it is one of the two that are looked into."""
        if name not in ("DefectList", "ClassLookupList"):
            return
        rows: list[list[Token]] = []
        row: list[Token] = []
        images: list[KlarfImage] = []
        last = len(found)
        at = 0
        while at < last:
            token = found[at]
            if token.text == ";":
                if len(row) != len(columns):
                    raise self.fault(f"{len(columns)} values in a row of {name}", token)
                if name == "DefectList":
                    listed = dict(zip(columns, row, strict=True))
                    self.add_defect({k: v for k, v in listed.items() if k != "IMAGEINFO"}, images)
                rows.append(row)
                row, images = [], []
            elif at + 2 < last and found[at + 2].text == "{":
                end, depth = at + 3, 1
                while end < last and (depth := depth + _DEPTH.get(found[end].text, 0)):
                    end += 1
                if token.text == "Images":
                    images += _images(found[at + 3 : end])
                row.append(token)
                at = end
            else:
                row.append(token)
            at += 1
        if row:
            raise self.fault("; after a row", row[-1])
        if name == "ClassLookupList" and {"CLASSNUMBER", "CLASSNAME"} <= set(columns):
            end = found[-1].end if found else 0
            self.set_lookup(Table(rows, tuple(columns), count if found else None, end))


def _images(tokens: Sequence[Token]) -> Iterator[KlarfImage]:
    """Images as 1.8 lists them, with a comma after each; some tools put one after each word."""
    groups: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ",":
            groups.append([])
        elif token.text not in "{}":
            groups[-1].append(token)
    if any(len(group) < _IMAGE - 1 for group in groups):
        words = [token for group in groups for token in group]
        groups = [words[i : i + _IMAGE] for i in range(0, len(words), _IMAGE)]
    for group in groups:
        file, _, number, label, *_ = (*(t.value for t in group), "", "", "", "")
        yield KlarfImage(file, int(number) if number.isdigit() else 1, label)
