"""CSV as people have it: bytes into records, whatever is wrong with some of them. What a file is like (encoding, line ends,
delimiter) is told from all of its bytes first, so that every reading of it comes to the same records."""

from __future__ import annotations

import csv
from dataclasses import dataclass

# A file, and what stands between two line ends outside of quotes (bytes); a file's lines, as the addresses of all are held
# in memory while it is read.
FILE_BYTES = 64 * 1024 * 1024
RECORD_BYTES = 128 * 1024
LINES = 500_000
DELIMITERS = ",;\t"
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \r\n" + DELIMITERS.encode()
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What Windows-1252 has no character for.
_UNDEFINED = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))


class LeadFileError(Exception):
    """A file that cannot be imported at all: `reason` is its class, the text tells what would help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Format:
    """How a file's bytes are read. `encoding`: utf-8, cp1252 or latin-1; `returns`: lines end in a carriage return alone."""

    encoding: str
    delimiter: str
    returns: bool
    lines: int


@dataclass(frozen=True)
class Problem:
    """Why a record was left out: its first line (the file's first is 1), the field at fault or nothing, the reason's class,
    what would help, and the value (personal data: for the report alone)."""

    line: int
    field: str
    reason: str
    detail: str
    value: str = ""


@dataclass(frozen=True)
class Record:
    """The fields that begin on a line, or why they cannot be told."""

    line: int
    values: list[str]
    problem: Problem | None = None


class Survey:
    """Looks a file over, a piece at a time."""

    def __init__(self) -> None:
        self.size = 0
        # The first bytes, the heading among them.
        self.head = b""
        self._lines = 0
        self._rest = b""
        # Lines beyond ASCII that are UTF-8, and those that are not.
        self._good = self._bad = 0
        self._undefined = self._returns = False

    def feed(self, data: bytes) -> None:
        """The next piece. Raises LeadFileError (TOO_LARGE, TOO_MANY_LINES)."""
        self.size += len(data)
        if self.size > FILE_BYTES:
            raise LeadFileError("TOO_LARGE", f"the file has more than {FILE_BYTES // 1024**2} MiB; split it")
        if len(self.head) < RECORD_BYTES:
            self.head += data[: RECORD_BYTES - len(self.head)]
            self._returns = b"\n" not in self.head and b"\r" in self.head
        data = self._rest + (data.replace(b"\r", b"\n") if self._returns else data)
        self._lines += data.count(b"\n") - self._rest.count(b"\n")
        if self._lines > LINES:
            raise LeadFileError("TOO_MANY_LINES", f"the file has more than {LINES:,} lines; split it")
        # A line without an end is looked at in pieces.
        cut = (data.rfind(b"\n") + 1) or (len(data) if len(data) > RECORD_BYTES else 0)
        self._look(data[:cut])
        self._rest = data[cut:]

    def _look(self, data: bytes) -> None:
        if data.isascii():
            return
        for line in data.split(b"\n"):
            if line.isascii():
                continue
            try:
                line.decode()
            except UnicodeDecodeError:
                self._bad += 1
                self._undefined = self._undefined or len(line.translate(None, _UNDEFINED)) < len(line)
            else:
                self._good += 1

    def done(self) -> Format:
        """What the file is like. Raises LeadFileError (EMPTY_FILE, NOT_TEXT, NO_HEADING)."""
        self._look(self._rest)
        if self.head.startswith(_UTF16):
            raise LeadFileError("NOT_TEXT", "the file is UTF-16; save it as CSV in UTF-8")
        if not self.head.removeprefix(_BOM).strip(_BLANK):
            raise LeadFileError("EMPTY_FILE", "the file is empty")
        # Some bytes that went wrong are their lines' fault; where most lines are no UTF-8 the file is none.
        encoding = "utf-8" if self._good >= self._bad else ("latin-1" if self._undefined else "cp1252")
        lines = self._lines + bool(self._rest)
        formats = [Format(encoding, delimiter, self._returns, lines) for delimiter in DELIMITERS]
        return max(formats, key=lambda each: len(self._heading(each)))

    def _heading(self, form: Format) -> list[str]:
        for record in Records(form).feed(self.head, last=True):
            if record.problem is not None:
                return self.head.decode("latin-1").splitlines()[record.line - 1].split(form.delimiter)
            return record.values
        return []


class Records:
    """Splits a file into records, a piece at a time. A line whose quotes do not fit is left out alone: the next line is read
    as if it had not been there. Lines of nothing but blanks and delimiters are passed over."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._buffer = b""
        self._at = self._read = self._stop = 0
        self._line = 1
        self._taken = 0
        self._garbled = False
        # Within a line that is too long: what is left of it is dropped.
        self._dropping = self._begun = False
        self._reader = csv.reader(self, delimiter=form.delimiter, strict=True)

    def feed(self, data: bytes, *, last: bool = False) -> list[Record]:
        """The records that are whole by now; `last`: nothing follows."""
        if self._form.returns:
            data = data.replace(b"\r", b"\n")
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        if not self._begun and (last or len(self._buffer) >= len(_BOM)):
            self._begun = True
            self._buffer = self._buffer.removeprefix(_BOM)
        found: list[Record] = []
        while self._at < len(self._buffer) and (last or len(self._buffer) - self._at > RECORD_BYTES):
            record = self._next()
            if record is not None and (record.problem or any(map(str.strip, record.values))):
                found.append(record)
        return found

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> str:
        """The next line of the record that is being read, as the CSV reader asks for it."""
        if self._read >= self._stop:
            raise StopIteration
        end = self._buffer.find(b"\n", self._read, self._stop) + 1 or self._stop
        raw = self._buffer[self._read : end]
        self._read = end
        self._taken += 1
        try:
            return raw.decode(self._form.encoding)
        except UnicodeDecodeError:
            self._garbled = True
            return raw.decode(self._form.encoding, "replace")

    def _next(self) -> Record | None:
        line, size = self._line, len(self._buffer)
        end = self._buffer.find(b"\n", self._at, self._at + RECORD_BYTES) + 1
        if self._dropping or (not end and size - self._at > RECORD_BYTES):
            return self._drop()
        self._read, self._stop, self._taken, self._garbled = self._at, min(self._at + RECORD_BYTES, size), 0, False
        try:
            values = next(self._reader)
        except csv.Error as error:
            # Whatever it swallowed is read again without it.
            self._at, self._line = end or size, line + 1
            return Record(line, [], _unreadable(line, str(error), alone=self._taken == 1))
        self._at, self._line = self._read, line + self._taken
        if self._garbled:
            return Record(line, values, Problem(line, "", "BAD_ENCODING", f"is not {self._form.encoding.upper()} text"))
        return Record(line, values)

    def _drop(self) -> Record | None:
        """Pass over a line that is too long, or what of it is here."""
        line, end = self._line, self._buffer.find(b"\n", self._at) + 1
        known, self._dropping = self._dropping, not end
        self._at = end or len(self._buffer)
        if end:
            self._line += 1
        problem = Problem(line, "", "TOO_LONG", f"the line has more than {RECORD_BYTES // 1024} KiB")
        return None if known else Record(line, [], problem)


def _unreadable(line: int, error: str, *, alone: bool) -> Problem:
    # A quote that fits nowhere on a later line was meant to open: the one before was never closed.
    if "end of data" in error or ("expected after" in error and not alone):
        return Problem(line, "", "UNBALANCED_QUOTES", "a quote is opened and not closed")
    if "expected after" in error:
        return Problem(line, "", "BAD_QUOTES", "something stands between a closing quote and the next delimiter")
    if "field limit" in error:
        return Problem(line, "", "TOO_LONG", "a field is too long")
    return Problem(line, "", "MALFORMED", "a carriage return stands outside of quotes")
