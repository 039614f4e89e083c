# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a value may be beyond its Python type, as annotations: ``Annotated[int, Bounds(0, 7)]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, Union

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda decorator: decorator


class Bounds(NamedTuple):
    """Inclusive bounds of a number, or of the length of a text or a list."""

    low: int
    high: int


class Choices(NamedTuple):
    values: tuple[Union[str, int], ...]


U32 = Annotated[int, Bounds(0, (1 << 32) - 1)]
U64 = Annotated[int, Bounds(0, (1 << 64) - 1)]
#: An address, or the end of a range, which can be the end of the address space.
Edge = Annotated[int, Bounds(0, 2 << 64)]
#: A counter of the kernel, or a sum of some: signed, and beyond 64 bits only in a damaged target.
Count = Annotated[int, Bounds(-(1 << 100), 1 << 100)]

_Class = TypeVar("_Class", bound=type)
_Kind = TypeVar("_Kind")
_ADDRESSES = frozenset(("address", "attribute", "end", "phys_base", "start", "unit_size"))


def hexadecimal(kind: _Class) -> _Class:
    """Let ``repr()`` of a named tuple or dataclass have addresses in hexadecimal, and count bytes."""

    def text(self: Any) -> str:
        values = self._asdict() if hasattr(self, "_asdict") else vars(self)
        counted = {name: f"<{len(v)} bytes>" if isinstance(v, bytes) else repr(v) for name, v in values.items()}
        counted |= {name: hex(values[name]) for name in _ADDRESSES & values.keys() if values[name] is not None}
        return f"{kind.__name__}({', '.join(map('='.join, counted.items()))})"

    kind.__repr__ = text  # type: ignore[method-assign, assignment]
    return kind


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: type[_Kind]) -> type[_Kind]:
    """A dataclass that mypy lets nobody assign to; what ``frozen=True`` and ``eq`` compile takes 7 ms of each start."""

    def equal(self: Any, other: Any) -> Any:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    kind.__eq__ = equal  # type: ignore[method-assign]
    kind.__hash__ = lambda self: hash(tuple(vars(self).values()))  # type: ignore[method-assign]
    return hexadecimal(dataclass(repr=False, eq=False)(kind))
