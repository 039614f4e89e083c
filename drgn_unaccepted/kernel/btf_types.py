# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make drgn types from BTF, one at a time, for :mod:`drgn_unaccepted.kernel.btf_finder`."""

from __future__ import annotations

from functools import partial
from typing import Optional, Union

from drgn import (
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
    sizeof,
)

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.btf import INT_BOOL, INT_SIGNED, Btf, BtfError, BtfType, Kind, Member

_KINDS = {
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
}
_INTEGER_BYTES = (1, 2, 4, 8, 16)
_REFERENCES = frozenset(
    (Kind.PTR, Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG, Kind.FUNC_PROTO)
)
_QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
}
# drgn asks for the spelling on the left; GCC writes the one on the right into debuginfo, Clang the one on the left.
_GCC_SPELLING = {
    "short": "short int",
    "unsigned short": "short unsigned int",
    "long": "long int",
    "unsigned long": "long unsigned int",
    "long long": "long long int",
    "unsigned long long": "long long unsigned int",
}
# The integer types (unsigned, signed) that compilers choose for an enumeration, by its size; BTF does not name it.
_ENUM_INTEGER = {
    1: ("unsigned char", "signed char"),
    2: ("unsigned short", "short"),
    4: ("unsigned int", "int"),
    8: ("unsigned long", "long"),
}


class BtfTypes:
    """drgn types from BTF, each made when it is asked for, and its members when they are looked at.

    Every method raises :class:`BtfError` where BTF does not fit together.
    """

    def __init__(self, prog: Program, btf: Btf) -> None:
        self._prog = prog
        self._btf = btf
        self._types: dict[int, Type] = {}
        self._found: dict[tuple[str, frozenset[TypeKind]], Optional[Type]] = {}

    def find(self, kinds: TypeKindSet, name: str) -> Optional[Type]:
        """The type of one of these kinds with this name; a declaration is no type, as with DWARF."""
        key = name, frozenset(kinds)
        if key not in self._found:
            self._found[key] = self._find(*key)
        return self._found[key]

    def _find(self, name: str, kinds: frozenset[TypeKind]) -> Optional[Type]:
        btf_kinds = {btf_kind for kind in kinds for btf_kind in _KINDS.get(kind, ())}
        for spelling in dict.fromkeys((_GCC_SPELLING.get(name, name), name)):
            type_id = self._btf.find(spelling, btf_kinds)
            if type_id is not None:
                found = self.type(type_id)
                return found if found.kind in kinds else None  # BTF's INT is also bool
        return None

    def find_constant(self, name: str) -> Optional[Object]:
        """The enumeration constant with this name."""
        found = self._btf.find_enumerator(name)
        return None if found is None else Object(self._prog, self.type(found[0]), found[1])

    def find_declared(self, kind: Kind, name: str) -> Optional[Type]:
        """The type of a FUNC, or of a VAR: the kernel's BTF has per-CPU variables."""
        type_id = self._btf.find(name, (kind,))
        return None if type_id is None else self.type(self._btf.type(type_id).type_id)

    def type(self, type_id: int, depth: int = 0) -> Type:
        """The type with this number in BTF; ``depth`` counts the types that led to it."""
        if type_id not in self._types:
            if depth > limits.BTF_NESTING:
                raise BtfError(f"BTF type {type_id}: nested deeper than {limits.BTF_NESTING}, or a cycle")
            self._types[type_id] = self._make(self._btf.type(type_id), depth)
        return self._types[type_id]

    def _make(self, of: BtfType, depth: int) -> Type:
        prog, kind = self._prog, of.kind
        if kind is Kind.VOID:
            return prog.void_type()
        if kind is Kind.INT:
            return self._make_integer(of)
        if kind is Kind.FLOAT:
            return prog.float_type(of.name, of.size)
        if kind in (Kind.STRUCT, Kind.UNION):
            return self._make_compound(of)
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._make_enum(of)
        if kind is Kind.FWD:
            return self._make_declared(of)
        if kind is Kind.ARRAY:
            return self._make_array(of, depth)
        if kind not in _REFERENCES:
            raise BtfError(f"BTF type {of.id} is a {kind.name}, which is not a type")
        target = self.type(of.type_id, depth + 1)
        if kind is Kind.PTR:
            return prog.pointer_type(target)
        if kind is Kind.TYPEDEF:
            return prog.typedef_type(of.name, target)
        if kind is Kind.FUNC_PROTO:
            return self._make_function(of, target)
        if kind is Kind.TYPE_TAG:
            return target
        return target.qualified(target.qualifiers | _QUALIFIERS[kind])

    def _make_integer(self, of: BtfType) -> Type:
        if of.size not in _INTEGER_BYTES:
            raise BtfError(f"BTF type {of.id}: an integer of {of.size} bytes")
        encoding, bit_offset, bits = self._btf.integer(of)
        if bit_offset or bits != of.size * 8:
            # A bit field as written before Linux 5.0. Such old kernels have no kallsyms in VMCOREINFO, either.
            raise BtfError(f"BTF type {of.id}: {bits} bits at bit {bit_offset} of an integer are not supported")
        if encoding & INT_BOOL:
            return self._prog.bool_type(of.name, of.size)
        return self._prog.int_type(of.name, of.size, bool(encoding & INT_SIGNED))

    def _make_array(self, of: BtfType, depth: int) -> Type:
        type_id, length = self._btf.array(of)
        element = self.type(type_id, depth + 1)
        # An array as a value is read whole.
        if length and length * sizeof(element) > limits.BTF_TYPE_BYTES:
            raise BtfError(f"BTF type {of.id}: an array of {length} elements, {sizeof(element)} bytes each")
        # BTF writes an array of unknown length as one of length 0.
        return self._prog.array_type(element, length or None)

    def _make_compound(self, of: BtfType) -> Type:
        if of.size > limits.BTF_TYPE_BYTES:
            raise BtfError(f"BTF type {of.id}: a structure of {of.size} bytes")
        self._btf.check_members(of)
        members = self._btf.members(of)
        is_struct = of.kind is Kind.STRUCT
        last = len(members) - 1
        return (self._prog.struct_type if is_struct else self._prog.union_type)(
            of.name or None,
            of.size,
            [
                TypeMember(
                    partial(self._member_type, member, flexible=is_struct and index == last > 0),
                    member.name or None,
                    member.bit_offset,
                )
                for index, member in enumerate(members)
            ],
        )

    def _member_type(self, member: Member, flexible: bool) -> Union[Type, Object]:
        of = self._btf.type(member.type_id)
        if of.kind is Kind.ARRAY and not flexible:
            element, length = self._btf.array(of)
            if length == 0:
                # As in drgn's DWARF reader, only the end of a structure can be a flexible array.
                return self._prog.array_type(self.type(element), 0)
        made = self.type(member.type_id)
        return Object(self._prog, made, bit_field_size=member.bit_field_size) if member.bit_field_size else made

    def _make_enum(self, of: BtfType) -> Type:
        if of.vlen == 0:
            return self._prog.enum_type(of.name or None)
        if of.size not in _ENUM_INTEGER:
            raise BtfError(f"BTF type {of.id}: an enumeration of {of.size} bytes")
        return self._prog.enum_type(
            of.name or None,
            self._prog.type(_ENUM_INTEGER[of.size][of.kind_flag]),
            [TypeEnumerator(name, value) for name, value in self._btf.enumerators(of)],
        )

    def _make_function(self, of: BtfType, returns: Type) -> Type:
        parameters = self._btf.parameters(of)
        is_variadic = bool(parameters) and parameters[-1] == ("", 0)
        if is_variadic:
            parameters.pop()
        return self._prog.function_type(
            returns,
            [TypeParameter(partial(self.type, type_id), name or None) for name, type_id in parameters],
            is_variadic,
        )

    def _make_declared(self, of: BtfType) -> Type:
        """The structure or union that was declared; incomplete where BTF does not have it."""
        type_id = self._btf.find(of.name, (Kind.UNION if of.kind_flag else Kind.STRUCT,))
        if type_id is not None:
            return self.type(type_id)
        return (self._prog.union_type if of.kind_flag else self._prog.struct_type)(of.name)
