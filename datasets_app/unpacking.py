"""Reading gzip and zstd as they stream by, never more at once than a few MB, and never past a limit. Pure.

A few kilobytes of either can stand for gigabytes, so what counts is what comes out: the limit is on that.
"""

import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from project.contracts.runs import UserError

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
_GZIP_INPUT = 64 * 1024
_ZSTD_INPUT = 256  # bytes: four of them can stand for 128 KiB, and the library has no limit of its own
_OUTPUT = 1024 * 1024
_WINDOW = 128 * 1024**2  # zstd --long=27; a frame may ask for gigabytes


def kind_of(beginning: bytes) -> str:
    """'gzip', 'zstd' or '' by the first bytes of a file."""
    return next((kind for magic, kind in MAGIC.items() if beginning.startswith(magic)), "")


class Unpacking(io.RawIOBase):
    """The content of a packed file as a stream of bytes. Closing it closes the file.

    Reading raises UserError where the file is damaged or cut, and once more than `limit` bytes came out.
    """

    def __init__(self, packed: BinaryIO, kind: str, *, limit: int, name: str) -> None:
        self._packed, self._kind, self._limit, self._name = packed, kind, limit, name
        self._ready = memoryview(b"")
        self._input = b""
        self._decoder: Any = None  # None between two frames or members
        self.position = 0  # bytes that came out

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready:
            self._ready = memoryview(self._next())
        size = min(len(self._ready), len(buffer))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._packed.close()
        super().close()

    def _next(self) -> bytes:
        """The next bytes; none at the end."""
        while True:
            if not self._input:
                self._input = self._packed.read(_GZIP_INPUT if self._kind == "gzip" else _ZSTD_INPUT)
            if not self._input and not getattr(self._decoder, "unconsumed_tail", b""):
                if self._decoder is not None:
                    raise self._problem("it ends in the middle")
                return b""
            if output := self._decoded():
                self.position += len(output)
                if self.position > self._limit:
                    raise UserError(
                        f"{self._name} unpacks to more than {self._limit:,} bytes.",
                        hint="Split it, or ask the operator to raise MAX_UNPACKED_BYTES.",
                        field="file",
                    )
                return output

    def _decoded(self) -> bytes:
        """What the bytes at hand stand for, if anything yet."""
        if self._decoder is None:
            if self.position and not self._input.strip(b"\0"):  # tapes and some tools pad the end with zeros
                self._input = b""
                return b""
            self._decoder = self._new_decoder()
        try:
            if self._kind == "gzip":
                output = self._decoder.decompress(self._decoder.unconsumed_tail + self._input, _OUTPUT)
            else:
                output = self._decoder.decompress(self._input)
        except Exception as error:
            if isinstance(error, zlib.error) or type(error).__name__ == "ZstdError":
                raise self._problem(str(error)) from None
            raise
        self._input = b""
        if self._decoder.eof:
            self._input, self._decoder = self._decoder.unused_data, None
        return bytes(output)

    def _new_decoder(self) -> Any:
        if self._kind == "gzip":
            return zlib.decompressobj(wbits=31)
        import zstandard

        # a new object for each frame: this one does not start over by itself
        new: Callable[[], Any] = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj
        return new()

    def _problem(self, what: str) -> UserError:
        return UserError(
            f"{self._name} is damaged: {what} (after {self.position:,} unpacked bytes of {self._kind}).",
            hint="Copy or download it again, and compare its size.",
            field="file",
        )
