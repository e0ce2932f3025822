"""The headers of HTTP/2 as bytes: written literally, read with the static table alone.

Promises: what makes no sense, or needs the table that was refused, is a `ValueError` or an `IndexError`.

Source: RFC 7541 (HPACK).
"""

from __future__ import annotations

from typing import Final


def _integer(prefix: int, bits: int, value: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((prefix | value,))
    out = bytearray((prefix | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _string(value: bytes) -> bytes:
    return _integer(0, 7, len(value)) + value


def literal(index: bytes, value: bytes) -> bytes:
    """A header whose name is in the static table, at `index` as the RFC writes it; never to be remembered."""
    return index + _string(value)


def named(name: bytes, value: bytes) -> bytes:
    """A header with a name of its own."""
    return b"\x00" + _string(name) + _string(value)


_STATUS: Final = dict(zip(range(8, 15), (b"200", b"204", b"206", b"304", b"400", b"404", b"500"), strict=True))
STATIC: Final = 61


def decoded(block: bytes) -> dict[bytes, bytes]:
    """The headers of a block, as far as they have a name of their own; of the static table only `:status` matters."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _read(block, at, 7)
            if index in _STATUS:
                found[b":status"] = _STATUS[index]
        elif first & 0xE0 == 0x20:
            index, at = _read(block, at, 5)
            if index:
                raise ValueError("a header table, which was refused")
            continue
        else:
            index, at = _read(block, at, 6 if first & 0x40 else 4)
            name = b":status" if index in _STATUS else b""
            if not index:
                name, at = _text(block, at)
            value, at = _text(block, at)
            found[name] = value
        if index > STATIC:
            raise ValueError("a header of a table that was refused")
    return found


def _read(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    is_huffman = block[at] & 0x80
    size, at = _read(block, at, 7)
    text = block[at : at + size]
    if len(text) < size:
        raise ValueError("a header is cut off")
    return (_huffman(text) if is_huffman else text), at + size


# The symbols by the length of their code, in order, for the code is canonical (RFC 7541, appendix B). What is longer
# than 15 bits stands for no printable character, and no header of gRPC has one.
_SYMBOLS: Final = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\0$@[]~",
    14: b"^}",
    15: b"<`{",
}


def _codes() -> dict[tuple[int, int], int]:
    codes: dict[tuple[int, int], int] = {}
    code, last = 0, 5
    for size, symbols in _SYMBOLS.items():
        code <<= size - last
        last = size
        for symbol in symbols:
            codes[size, code] = symbol
            code += 1
    return codes


_CODES: Final = _codes()


def _huffman(text: bytes) -> bytes:
    out = bytearray()
    size = code = 0
    for byte in text:
        for bit in range(7, -1, -1):
            code = code << 1 | byte >> bit & 1
            size += 1
            symbol = _CODES.get((size, code))
            if symbol is not None:
                out.append(symbol)
                size = code = 0
    if size >= 8 or code != (1 << size) - 1:
        raise ValueError("a header has a character that none should have")
    return bytes(out)
