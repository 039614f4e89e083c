# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse BTF, a kernel's description of its own types, without drgn.

The format is described in the kernel's Documentation/bpf/btf.rst. A distribution's kernel has 3 to 6 MB of it, 70 to
150 thousand types, of which we want a dozen, so nothing is parsed before it is asked for:

* A name is found by a search of the string section for its bytes, and its records by a search of the type section for
  the name's offset. Both run at memchr's speed.
* Records have no fixed size and refer to each other by number. The table from number to offset grows only to the
  highest number that was needed (about 0.1 us for each record).

Of two types with one kind and name, which BTF has where compilation units differ, the one with the lower number is
taken, as in libbpf's ``btf__find_by_name_kind()``. Names are found whole: a linker that merges string tails would hide
names from us, but pahole does not.

The bytes of a target are not trusted: whatever does not fit together raises :class:`BtfError`.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from enum import IntEnum
from typing import NamedTuple, Optional

from drgn_unaccepted import limits


class BtfError(ValueError):
    """The bytes are not BTF of a known form; the text says what is wrong and where."""


#: ``BTF_KIND_*`` of include/uapi/linux/btf.h.
Kind = IntEnum(
    "Kind",
    "VOID INT PTR ARRAY STRUCT UNION ENUM FWD TYPEDEF VOLATILE CONST RESTRICT FUNC FUNC_PROTO VAR DATASEC FLOAT "
    "DECL_TAG TYPE_TAG ENUM64",
    start=0,
)

#: Kinds that name or qualify another type without changing its layout in memory.
TRANSPARENT = frozenset((Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))

INT_SIGNED = 1
INT_BOOL = 4

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_RECORD = struct.Struct("<III")
_WORD = struct.Struct("<I")
_KIND_FLAG = 0x80

#: Bytes of each of the vlen elements of a record.
_ELEMENT_BYTES: dict[int, int] = {
    **dict.fromkeys((Kind.STRUCT, Kind.UNION, Kind.DATASEC, Kind.ENUM64), 12),
    **dict.fromkeys((Kind.ENUM, Kind.FUNC_PROTO), 8),
}
#: Bytes of a record without its elements.
_RECORD_BYTES: dict[int, int] = {
    **dict.fromkeys((Kind.PTR, Kind.FWD, Kind.FUNC, Kind.FLOAT, *TRANSPARENT, *_ELEMENT_BYTES), 12),
    **dict.fromkeys((Kind.INT, Kind.VAR, Kind.DECL_TAG), 16),
    Kind.ARRAY: 24,
}


class BtfType(NamedTuple):
    """``struct btf_type``."""

    id: int
    kind: Kind
    kind_flag: bool
    #: Number of members, enumerators, parameters or section entries; for FUNC its linkage.
    vlen: int
    #: Empty for an anonymous type.
    name: str
    #: The C union of ``size`` and ``type``.
    size_or_type: int
    #: Where the data after the record begins in the type section.
    data: int

    @property
    def size(self) -> int:
        """Bytes: INT, ENUM, ENUM64, STRUCT, UNION, FLOAT, DATASEC."""
        return self.size_or_type

    @property
    def type_id(self) -> int:
        """Type referred to: PTR, TYPEDEF, qualifiers, tags, FUNC, VAR; what a FUNC_PROTO returns."""
        return self.size_or_type


class Member(NamedTuple):
    """``struct btf_member``."""

    #: Empty for an anonymous structure or union.
    name: str
    type_id: int
    bit_offset: int
    #: Bits of a bit field, 0 for any other member.
    bit_field_size: int


class Btf:
    """The BTF of one kernel (vmlinux). Types are numbered from 1; 0 is ``void``.

    :param data: the whole ``.BTF`` section
    :raises BtfError: not BTF, another byte order or version, more than :data:`limits.BTF_BYTES`, sections outside of
        the data, or the split BTF of a module, which is of no use without its vmlinux
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > limits.BTF_BYTES:
            raise BtfError(f"{len(data)} bytes of BTF, more than the limit of {limits.BTF_BYTES}")
        if len(data) < _HEADER.size:
            raise BtfError(f"{len(data)} bytes are too short for a BTF header")
        magic, version, _flags, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        if magic == 0x9FEB:
            raise BtfError("big-endian BTF is not supported")
        if magic != _MAGIC:
            raise BtfError(f"not BTF: magic {magic:#06x}, expected {_MAGIC:#06x}")
        if version != 1:
            raise BtfError(f"BTF version {version} is not supported")
        if not _HEADER.size <= header <= len(data):
            raise BtfError(f"BTF header length {header} is out of range")
        for section, offset, length in ("type", type_off, type_len), ("string", str_off, str_len):
            if offset + length > len(data) - header:
                raise BtfError(f"BTF {section} section [{offset}, {offset + length}) ends beyond the data")
        if type_off % 4:
            raise BtfError(f"BTF type section at {type_off} is not aligned to 4")
        self._types = data[header + type_off : header + type_off + type_len]
        self._strings = data[header + str_off : header + str_off + str_len]
        if not self._strings.endswith(b"\0"):
            raise BtfError("BTF string section is empty or its last string does not end")
        if not self._strings.startswith(b"\0"):
            # kernel/bpf/btf.c btf_parse_str_sec() demands this of all but split BTF.
            raise BtfError("split BTF (of a module) is not supported: its string section begins with a name")
        # Offset of each record by its number. Entry 0 is void and keeps the array sorted.
        self._offsets = array("I", [0])
        self._indexed = 0

    def find(self, name: str, kinds: Collection[Kind]) -> Optional[int]:
        """Number of the type with this name and one of these kinds, the lowest if there are several."""
        if not kinds:
            return None
        kind_byte = b"[" + re.escape(bytes(kind | flag for kind in kinds for flag in (0, _KIND_FLAG))) + b"]"
        for name_off in self._name_offsets(name):
            for offset in self._search(re.escape(_WORD.pack(name_off)) + b"..." + kind_byte):
                type_id = self._number_at(offset)
                if self._offsets[type_id] == offset:
                    return type_id
        return None

    def find_enumerator(self, name: str) -> Optional[tuple[int, int]]:
        """(number of the enumeration, value) of the first enumeration constant with this name."""
        for name_off in self._name_offsets(name):
            for offset in self._search(re.escape(_WORD.pack(name_off))):
                type_id = self._number_at(offset)
                start = self._offsets[type_id]
                kind = self._types[start + 7] & 0x1F
                if kind in (Kind.ENUM, Kind.ENUM64):
                    index, middle = divmod(offset - start - _RECORD.size, _ELEMENT_BYTES[kind])
                    if index >= 0 and middle == 0:
                        return type_id, self.enumerators(self.type(type_id))[index][1]
        return None

    def type(self, type_id: int) -> BtfType:
        """The record with this number.

        :raises BtfError: no such number, or a record before it cannot be read
        """
        if type_id == 0:
            return BtfType(0, Kind.VOID, False, 0, "void", 0, 0)
        if type_id >= len(self._offsets):
            self._index(type_id, 0)
        if type_id >= len(self._offsets):
            raise BtfError(f"BTF type {type_id}: there are only {len(self._offsets) - 1}")
        # The index holds only records that lie in the section whole and whose kind we know.
        offset = self._offsets[type_id]
        name_off, info, size_or_type = _RECORD.unpack_from(self._types, offset)
        return BtfType(
            type_id,
            Kind(info >> 24 & 0x1F),
            bool(info >> 31),
            info & 0xFFFF,
            self._name(name_off, type_id),
            size_or_type,
            offset + _RECORD.size,
        )

    def __len__(self) -> int:
        """Number of types without void, which is the highest valid number. Reads the whole section."""
        self._index(len(self._types), 0)
        return len(self._offsets) - 1

    def integer(self, of: BtfType) -> tuple[int, int, int]:
        """Encoding (:data:`INT_SIGNED` or :data:`INT_BOOL` or neither), bit offset and bits of an INT."""
        (word,) = _WORD.unpack_from(self._types, of.data)
        return word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF

    def array(self, of: BtfType) -> tuple[int, int]:
        """Number of the elements' type, and length of an ARRAY: 0 for a flexible array member.

        All dimensions are multiplied into one (pahole does so).
        """
        type_id, _, length = _RECORD.unpack_from(self._types, of.data)
        return type_id, length

    def members(self, of: BtfType) -> list[Member]:
        """Members of a STRUCT or UNION, in order."""
        members = []
        for name_off, type_id, offset in self._elements(of, "<III"):
            # With kind_flag the top byte is the size of a bit field.
            size, offset = (offset >> 24, offset & 0xFFFFFF) if of.kind_flag else (0, offset)
            members.append(Member(self._name(name_off, of.id), type_id, offset, size))
        return members

    def enumerators(self, of: BtfType) -> list[tuple[str, int]]:
        """(name, value) of the constants of an ENUM or ENUM64, in order; kind_flag says that they are signed."""
        layout = ("<IIi" if of.kind_flag else "<III") if of.kind is Kind.ENUM64 else "<Ii" if of.kind_flag else "<II"
        return [
            (self._name(name_off, of.id), low | sum(high) << 32) for name_off, low, *high in self._elements(of, layout)
        ]

    def parameters(self, of: BtfType) -> list[tuple[str, int]]:
        """(name, type) of the parameters of a FUNC_PROTO, in order. ("", 0) in the last place is C's ``...``."""
        return [(self._name(name_off, of.id), type_id) for name_off, type_id in self._elements(of, "<II")]

    def check_members(self, of: BtfType) -> None:
        """Check that the members of a STRUCT or UNION, including those of anonymous members, are few enough.

        drgn walks all of them when it looks up a member. With a cycle, or structures that each hold the next one
        twice, the walk would never end.

        :raises BtfError: deeper than :data:`limits.BTF_NESTING` or more than :data:`limits.BTF_MEMBERS`
        """
        count = 0
        todo = [(of, 0)]
        while todo:
            found, depth = todo.pop()
            if depth > limits.BTF_NESTING:
                raise BtfError(f"BTF type {of.id}: anonymous members nested deeper than {limits.BTF_NESTING}")
            if found.kind in (Kind.STRUCT, Kind.UNION):
                inner = [type_id for name_off, type_id, _ in self._elements(found, "<III") if name_off == 0]
                count += found.vlen
            else:  # the walk passes qualifiers, too
                inner = [found.type_id] if found.kind in TRANSPARENT else []
                count += len(inner)
            if count > limits.BTF_MEMBERS:
                raise BtfError(f"BTF type {of.id}: more than {limits.BTF_MEMBERS} members")
            todo += [(self.type(type_id), depth + 1) for type_id in inner]

    def _elements(self, of: BtfType, layout: str) -> Iterator[tuple[int, ...]]:
        element = struct.Struct(layout)
        return element.iter_unpack(self._types[of.data : of.data + of.vlen * element.size])

    def _name(self, name_off: int, type_id: int) -> str:
        if name_off == 0:
            return ""
        if name_off >= len(self._strings):
            raise BtfError(f"BTF type {type_id}: name offset {name_off} is beyond the string section")
        end = self._strings.find(b"\0", name_off, name_off + limits.SYMBOL_NAME_BYTES)
        if end < 0:
            raise BtfError(f"BTF type {type_id}: its name is longer than {limits.SYMBOL_NAME_BYTES} bytes")
        name = self._strings[name_off:end]
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise BtfError(f"BTF type {type_id}: the name at {name_off} is not UTF-8") from None

    def _name_offsets(self, name: str) -> Iterator[int]:
        """Offsets of a name in the string section; libbpf stores each string once."""
        needle = b"\0" + name.encode() + b"\0"
        found = self._strings.find(needle) if name and "\0" not in name else -1
        for _ in range(limits.BTF_SAME_STRINGS):
            if found < 0:
                return
            yield found + 1
            found = self._strings.find(needle, found + 1)
        raise BtfError(f"BTF string section holds {name!r} more than {limits.BTF_SAME_STRINGS} times")

    def _search(self, pattern: bytes) -> Iterator[int]:
        """Offsets in the type section at which the pattern matches, whatever record is there."""
        search = re.compile(pattern, re.DOTALL).search
        match = search(self._types)
        for _ in range(limits.BTF_MATCHES):
            if match is None:
                return
            yield match.start()
            match = search(self._types, match.start() + 1)
        raise BtfError(f"BTF type section has more than {limits.BTF_MATCHES} matches of one name")

    def _number_at(self, offset: int) -> int:
        """Number of the record in which this offset of the type section lies."""
        if offset >= self._indexed:
            self._index(0, offset)
        return bisect_right(self._offsets, offset, 1) - 1

    def _index(self, type_id: int, offset: int) -> None:
        """Extend the index until it holds this number and this offset, or everything."""
        types, end = self._types, len(self._types)
        position, count = self._indexed, len(self._offsets)
        while position < end and (count <= type_id or position <= offset):
            if position + _RECORD.size > end:
                raise BtfError(f"BTF type {count}: the section ends inside of it")
            kind = types[position + 7] & 0x1F
            if kind not in _RECORD_BYTES:
                raise BtfError(f"BTF type {count}: unknown kind {kind}")
            size = _RECORD_BYTES[kind] + _ELEMENT_BYTES.get(kind, 0) * (types[position + 4] | types[position + 5] << 8)
            if position + size > end:
                raise BtfError(f"BTF type {count}: the section ends inside of it")
            self._offsets.append(position)
            position += size
            count += 1
            self._indexed = position
