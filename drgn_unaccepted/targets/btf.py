# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn types from BTF, a kernel's description of its own types (Documentation/bpf/btf.rst).

A distribution's kernel has 70 to 150 thousand types in 3 to 6 MB, of which we want a dozen, so nothing is parsed before
it is asked for. A name is found by a search of the string section for its bytes, and its records by a search of the
type section for the name's offset, both at memchr's speed. Records have no fixed size and refer to each other by
number; the table from number to offset grows only to the highest number that was needed.

Of two types with one kind and name the one with the lower number is taken, as in libbpf's
``btf__find_by_name_kind()``. Names are found whole: a linker that merges string tails would hide names from us, but
pahole does not. Whatever does not fit together raises ValueError.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from enum import IntEnum
from functools import partial
from typing import NamedTuple, Optional, Union

from drgn import Object, Program, Qualifiers, Type, TypeEnumerator, TypeKind, TypeMember, TypeParameter, sizeof

from drgn_unaccepted import limits

#: ``BTF_KIND_*`` of include/uapi/linux/btf.h.
Kind = IntEnum(
    "Kind",
    "VOID INT PTR ARRAY STRUCT UNION ENUM FWD TYPEDEF VOLATILE CONST RESTRICT FUNC FUNC_PROTO VAR DATASEC FLOAT "
    "DECL_TAG TYPE_TAG ENUM64",
    start=0,
)
_QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
    Kind.TYPE_TAG: Qualifiers.NONE,
}
_COMPOUNDS = (Kind.STRUCT, Kind.UNION)
_ENUMS = (Kind.ENUM, Kind.ENUM64)

_SIGNED, _BOOL = 1, 4  #: BTF_INT_SIGNED and BTF_INT_BOOL.
_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_RECORD = struct.Struct("<III")

#: Bytes of a record, and of each of its vlen elements, by the number of its kind.
_BYTES: dict[int, tuple[int, int]] = {
    **{int(kind): (12, 0) for kind in (Kind.PTR, Kind.FWD, Kind.TYPEDEF, Kind.FUNC, Kind.FLOAT, *_QUALIFIERS)},
    **{int(kind): (12, 12) for kind in (*_COMPOUNDS, Kind.DATASEC, Kind.ENUM64)},
    **{int(kind): (12, 8) for kind in (Kind.ENUM, Kind.FUNC_PROTO)},
    **{int(kind): (16, 0) for kind in (Kind.INT, Kind.VAR, Kind.DECL_TAG)},
    int(Kind.ARRAY): (24, 0),
}

_DRGN_KINDS: dict[TypeKind, tuple[Kind, ...]] = {
    **{TypeKind[name]: (Kind[name],) for name in ("INT", "FLOAT", "STRUCT", "UNION", "TYPEDEF")},
    **{TypeKind.BOOL: (Kind.INT,), TypeKind.ENUM: _ENUMS},
}
# The integer types that compilers choose for an enumeration, by its size; BTF does not name it.
_ENUM_INTEGER = {1: "char", 2: "short", 4: "int", 8: "long"}


class Record(NamedTuple):
    """``struct btf_type``."""

    id: int
    kind: Kind
    kind_flag: bool
    vlen: int  #: Number of members, enumerators, parameters or section entries; for FUNC its linkage.
    name: str  #: Empty for an anonymous type.
    size_or_type: int  #: The C union of ``size`` (bytes) and ``type`` (number of the type referred to, or returned).
    data: int  #: Where the data after the record begins in the type section.


class Btf:
    """The BTF of one kernel (vmlinux). Types are numbered from 1; 0 is ``void``.

    Each drgn type is made when it is asked for, and the types of its members when they are looked at.

    :param data: the whole ``.BTF`` section, not the split BTF of a module, which is of no use without its vmlinux
    """

    def __init__(self, prog: Program, data: bytes) -> None:
        if len(data) > limits.BTF_BYTES:
            raise ValueError(f"{len(data)} bytes of BTF, more than the limit of {limits.BTF_BYTES}")
        if len(data) < _HEADER.size:
            raise ValueError(f"{len(data)} bytes are too short for a BTF header")
        magic, version, _flags, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"not BTF: magic {magic:#06x}, expected {_MAGIC:#06x}")
        if version != 1:
            raise ValueError(f"BTF version {version} is not supported")
        if not _HEADER.size <= header <= len(data):
            raise ValueError(f"BTF header length {header} is out of range")
        for section, offset, length in ("type", type_off, type_len), ("string", str_off, str_len):
            if offset + length > len(data) - header:
                raise ValueError(f"BTF {section} section [{offset}, {offset + length}) ends beyond the data")
        self._prog = prog
        self._section = data[header + type_off : header + type_off + type_len]
        self._strings = data[header + str_off : header + str_off + str_len]
        if not self._strings.endswith(b"\0"):
            raise ValueError("BTF string section is empty or its last string does not end")
        if not self._strings.startswith(b"\0"):
            # kernel/bpf/btf.c btf_parse_str_sec() demands this of all but split BTF.
            raise ValueError("split BTF (of a module) is not supported: its string section begins with a name")
        # Offset of each record by its number, and where the next one begins. Entry 0 is void.
        self._offsets = array("I", [0, 0])
        self._types: dict[int, Type] = {0: prog.void_type()}
        # Members of each structure made, those of anonymous members included.
        self._members: dict[int, int] = {}

    # drgn types

    def find_type(self, kinds: Collection[TypeKind], name: str) -> Optional[Type]:
        """The type of one of these kinds with this name; a declaration is no type, as with DWARF."""
        btf_kinds = {btf_kind for kind in kinds for btf_kind in _DRGN_KINDS.get(kind, ())}
        # drgn asks for "unsigned long", as Clang spells it in debuginfo; GCC writes "long unsigned int".
        base = name.replace("unsigned ", "")
        gcc = f"{base} unsigned int" if base != name else f"{name} int"
        for spelling in (gcc, name) if base in ("short", "long", "long long") else (name,):
            type_id = self.find(spelling, btf_kinds) if btf_kinds else None
            if type_id is not None:
                found = self.type(type_id)
                return found if found.kind in kinds else None  # BTF's INT is also bool
        return None

    def find_constant(self, name: str) -> Optional[Object]:
        for offset in self._places(name):
            of = self._number_at(offset)
            start = self._offsets[of]
            kind = self._section[start + 7] & 0x1F
            if kind in _ENUMS:
                index, middle = divmod(offset - start - _RECORD.size, _BYTES[kind][1])
                if index >= 0 and middle == 0:
                    return Object(self._prog, self.type(of), self._enumerators(self.record(of))[index][1])
        return None

    def find_declared(self, kind: Kind, name: str) -> Optional[Type]:
        """The type of a FUNC, or of a VAR: the kernel's BTF has per-CPU variables."""
        type_id = self.find(name, (kind,))
        return None if type_id is None else self.type(self.record(type_id).size_or_type)

    def type(self, type_id: int, depth: int = 0) -> Type:
        """The type with this number; ``depth`` counts the types that led to it."""
        if type_id not in self._types:
            if depth > limits.BTF_NESTING:
                raise ValueError(f"BTF type {type_id}: nested deeper than {limits.BTF_NESTING}, or a cycle")
            self._types[type_id] = self._make(self.record(type_id), depth)
        return self._types[type_id]

    def _make(self, of: Record, depth: int) -> Type:
        prog, kind = self._prog, of.kind
        if kind is Kind.INT:
            return self._make_integer(of)
        if kind is Kind.FLOAT:
            return prog.float_type(of.name, of.size_or_type)
        if kind in _COMPOUNDS:
            return self._make_compound(of, depth)
        if kind in _ENUMS:
            return self._make_enum(of)
        if kind is Kind.FWD:
            return self._make_declared(of, depth)
        if kind is Kind.ARRAY:
            return self._make_array(of, depth)
        if kind not in (Kind.PTR, Kind.TYPEDEF, Kind.FUNC_PROTO, *_QUALIFIERS):
            raise ValueError(f"BTF type {of.id} is a {kind.name}, which is not a type")
        target = self.type(of.size_or_type, depth + 1)
        if kind is Kind.PTR:
            return prog.pointer_type(target)
        if kind is Kind.FUNC_PROTO:
            return self._make_function(of, target)
        self._members[of.id] = self._members.get(of.size_or_type, 0)
        if kind is Kind.TYPEDEF:
            return prog.typedef_type(of.name, target)
        return target.qualified(target.qualifiers | _QUALIFIERS[kind])

    def _make_integer(self, of: Record) -> Type:
        if of.size_or_type not in (1, 2, 4, 8, 16):
            raise ValueError(f"BTF type {of.id}: an integer of {of.size_or_type} bytes")
        encoding = self._section[of.data + 3]
        if encoding & _BOOL:
            return self._prog.bool_type(of.name, of.size_or_type)
        return self._prog.int_type(of.name, of.size_or_type, bool(encoding & _SIGNED))

    def _make_array(self, of: Record, depth: int) -> Type:
        # pahole multiplies all dimensions into one, and writes an array of unknown length as one of length 0.
        type_id, _, length = _RECORD.unpack_from(self._section, of.data)
        element = self.type(type_id, depth + 1)
        # An array as a value is read whole.
        if length and length * sizeof(element) > limits.BTF_TYPE_BYTES:
            raise ValueError(f"BTF type {of.id}: an array of {length} elements, {sizeof(element)} bytes each")
        return self._prog.array_type(element, length or None)

    def _make_compound(self, of: Record, depth: int) -> Type:
        if of.size_or_type > limits.BTF_TYPE_BYTES:
            raise ValueError(f"BTF type {of.id}: a structure of {of.size_or_type} bytes")
        is_struct, last = of.kind is Kind.STRUCT, of.vlen - 1
        members, count = [], of.vlen
        for index, (name, type_id, offset, bits) in enumerate(self.members(of)):
            if not name:
                # drgn walks all members of anonymous members when it looks up a name. With a cycle, or structures that
                # each hold the next one twice, the walk would never end.
                self.type(type_id, depth + 1)
                count += self._members.get(type_id, 0)
            if count > limits.BTF_MEMBERS:
                raise ValueError(f"BTF type {of.id}: more than {limits.BTF_MEMBERS} members")
            made = partial(self._member_type, type_id, bits, flexible=is_struct and index == last > 0)
            members.append(TypeMember(made, name or None, offset))
        self._members[of.id] = count
        make = self._prog.struct_type if is_struct else self._prog.union_type
        return make(of.name or None, of.size_or_type, members)

    def _member_type(self, type_id: int, bits: int, flexible: bool) -> Union[Type, Object]:
        made = self.type(type_id)
        if made.kind == TypeKind.ARRAY and made.length is None and not flexible:
            # As in drgn's DWARF reader, only the end of a structure can be a flexible array.
            made = self._prog.array_type(made.type, 0)
        return Object(self._prog, made, bit_field_size=bits) if bits else made

    def _make_enum(self, of: Record) -> Type:
        if of.vlen == 0:
            return self._prog.enum_type(of.name or None)
        if of.size_or_type not in _ENUM_INTEGER:
            raise ValueError(f"BTF type {of.id}: an enumeration of {of.size_or_type} bytes")
        sign = "signed" if of.kind_flag else "unsigned"
        integer = self._prog.type(f"{sign} {_ENUM_INTEGER[of.size_or_type]}")
        constants = [TypeEnumerator(name, value) for name, value in self._enumerators(of)]
        return self._prog.enum_type(of.name or None, integer, constants)

    def _enumerators(self, of: Record) -> list[tuple[str, int]]:
        """(name, value) of the constants, in order; kind_flag says that they are signed."""
        layout = ("<IIi" if of.kind_flag else "<III") if of.kind is Kind.ENUM64 else "<Ii" if of.kind_flag else "<II"
        return [(self._name(name, of.id), low | sum(high) << 32) for name, low, *high in self._elements(of, layout)]

    def _make_function(self, of: Record, returns: Type) -> Type:
        parameters = [(self._name(name_off, of.id), type_id) for name_off, type_id in self._elements(of, "<II")]
        is_variadic = parameters[-1:] == [("", 0)]  # C's ``...``
        if is_variadic:
            parameters.pop()
        made = [TypeParameter(partial(self.type, type_id), name or None) for name, type_id in parameters]
        return self._prog.function_type(returns, made, is_variadic)

    def _make_declared(self, of: Record, depth: int) -> Type:
        """The structure or union that was declared; incomplete where BTF does not have it."""
        type_id = self.find(of.name, (Kind.UNION if of.kind_flag else Kind.STRUCT,))
        if type_id is None:
            return (self._prog.union_type if of.kind_flag else self._prog.struct_type)(of.name)
        made = self.type(type_id, depth + 1)
        self._members[of.id] = self._members[type_id]
        return made

    # Records

    def find(self, name: str, kinds: Collection[Kind]) -> Optional[int]:
        """Number of the type with this name and one of these kinds, the lowest if there are several."""
        kind_bytes = bytes(kind | kind_flag << 7 for kind in kinds for kind_flag in (0, 1))
        for offset in self._places(name, b"...[" + re.escape(kind_bytes) + b"]"):
            type_id = self._number_at(offset)
            if self._offsets[type_id] == offset:
                return type_id
        return None

    def record(self, type_id: int) -> Record:
        """The record with this number. ValueError: no such number, or a record before it cannot be read."""
        self._index(type_id, 0)
        if type_id >= len(self._offsets) - 1:
            raise ValueError(f"BTF type {type_id}: there are only {len(self._offsets) - 2}")
        # The index holds only records that lie in the section whole and whose kind we know.
        data = self._offsets[type_id] + _RECORD.size
        name_off, info, size_or_type = _RECORD.unpack_from(self._section, data - _RECORD.size)
        name = self._name(name_off, type_id)
        return Record(type_id, Kind(info >> 24 & 0x1F), bool(info >> 31), info & 0xFFFF, name, size_or_type, data)

    def members(self, of: Record) -> Iterator[tuple[str, int, int, int]]:
        """Name (empty for an anonymous structure or union), type, offset in bits, and bits of a bit field, else 0."""
        for name_off, type_id, offset in self._elements(of, "<III"):
            # With kind_flag the top byte is the size of a bit field.
            bits, offset = divmod(offset, 1 << 24) if of.kind_flag else (0, offset)
            yield self._name(name_off, of.id), type_id, offset, bits

    def _elements(self, of: Record, layout: str) -> Iterator[tuple[int, ...]]:
        element = struct.Struct(layout)
        return element.iter_unpack(self._section[of.data : of.data + of.vlen * element.size])

    def _name(self, name_off: int, type_id: int) -> str:
        end = self._strings.find(b"\0", name_off, name_off + limits.SYMBOL_NAME_BYTES)
        if end < 0:
            raise ValueError(f"BTF type {type_id}: no name of less than {limits.SYMBOL_NAME_BYTES} bytes at {name_off}")
        try:
            return self._strings[name_off:end].decode()
        except UnicodeDecodeError:
            raise ValueError(f"BTF type {type_id}: the name at {name_off} is not UTF-8") from None

    def _places(self, name: str, behind: bytes = b"") -> Iterator[int]:
        """Where the type section has this name's offset, if the pattern ``behind`` matches the bytes after it."""
        needle = b"\0" + name.encode() + b"\0"
        at = self._strings.find(needle) if name and "\0" not in name else -1
        strings = matches = 0
        while at >= 0:
            strings += 1
            if strings > limits.BTF_SAME_STRINGS:
                raise ValueError(f"BTF string section holds {name!r} more than {limits.BTF_SAME_STRINGS} times")
            search = re.compile(re.escape((at + 1).to_bytes(4, "little")) + behind, re.DOTALL).search
            match = search(self._section)
            while match is not None:
                matches += 1
                if matches > limits.BTF_MATCHES:
                    raise ValueError(f"BTF type section has more than {limits.BTF_MATCHES} matches of one name")
                yield match.start()
                match = search(self._section, match.start() + 1)
            at = self._strings.find(needle, at + 1)

    def _number_at(self, offset: int) -> int:
        """Number of the record in which this offset of the type section lies."""
        self._index(0, offset)
        return bisect_right(self._offsets, offset, 1) - 1

    def _index(self, type_id: int, offset: int) -> None:
        """Extend the index until it holds this number and this offset, or everything."""
        section, offsets = self._section, self._offsets
        position, end = offsets[-1], len(section)
        while position < end and (len(offsets) <= type_id + 1 or position <= offset):
            if position + _RECORD.size > end:
                raise ValueError(f"BTF type {len(offsets) - 1}: the section ends inside of it")
            try:
                size, each = _BYTES[section[position + 7] & 0x1F]
            except KeyError as error:
                raise ValueError(f"BTF type {len(offsets) - 1}: unknown kind {error}") from None
            if each:
                size += each * (section[position + 4] | section[position + 5] << 8)
            position += size
            if position > end:
                raise ValueError(f"BTF type {len(offsets) - 1}: the section ends inside of it")
            offsets.append(position)
