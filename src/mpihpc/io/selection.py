"""A part of an array, given by basic indexing: ``np.s_[-1, :, ::2]``, or the text ``-1,:,::2``."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

from mpihpc.core.decomposition import Box


class Selection(NamedTuple):
    """The cells of an array that are read.

    Attributes
    ----------
    ranges : tuple of range
        The selected indices on each axis of the whole array; steps are 1 or more.
    kept : tuple of int
        The axes of the part; an integer drops its axis.
    """

    ranges: tuple[range, ...]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], slices: Any = None) -> Selection:
        """The part selected by `slices`, by NumPy's rules.

        Raises
        ------
        ValueError
            An index is out of range, there are too many, a step is not positive, or no axis is left.
        TypeError
            An entry is not an integer, a slice or Ellipsis.

        Examples
        --------
        >>> Selection.of((5, 8), (-1, slice(None, None, 3)))
        Selection(ranges=(range(4, 5), range(0, 8, 3)), kept=(1,))
        """
        items = (...,) if slices is None else slices if isinstance(slices, tuple) else (slices,)
        gaps = sum(item is ... for item in items)
        if gaps > 1 or len(items) - gaps > len(shape):
            raise ValueError(f"slices has {len(items)} entries for {len(shape)} axes: give at most one for each")
        rest = [slice(None)] * (len(shape) - len(items) + gaps)
        at = next((k for k, item in enumerate(items) if item is ...), len(items))
        ranges: list[range] = []
        kept: list[int] = []
        for axis, (item, n) in enumerate(zip([*items[:at], *rest, *items[at + 1 :]], shape, strict=True)):
            if isinstance(item, slice):
                if item.step is not None and index(item.step) < 1:
                    raise ValueError(
                        f"slices has step {item.step} on axis {axis}: use 1 or more, and reverse the array"
                    )
                ranges.append(range(n)[item])
                kept.append(axis)
                continue
            try:
                k = index(item)
            except TypeError:
                raise TypeError(f"slices has {item!r} on axis {axis}: use an integer, a slice or ...") from None
            if isinstance(item, bool) or not -n <= k < n:
                raise ValueError(f"index {item} is out of range for axis {axis} of length {n}")
            ranges.append(range(k % n, k % n + 1))
        if not kept:
            raise ValueError(f"slices selects one cell of {len(shape)} axes: keep an axis, such as {ranges[-1][0]}:")
        return cls(tuple(ranges), tuple(kept))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(len(self.ranges[axis]) for axis in self.kept)

    def of_box(self, box: Box) -> tuple[slice, ...]:
        """The index of a box of the part in the whole array."""
        bounds = dict(zip(self.kept, zip(*box, strict=True), strict=True))
        found = []
        for axis, r in enumerate(self.ranges):
            a, b = bounds.get(axis, (0, 1))
            start = r.start + a * r.step
            found.append(slice(start, start + (b - a - 1) * r.step + 1 if b > a else start, r.step))
        return tuple(found)

    def inside(self, box: Box) -> tuple[Box, tuple[slice | int, ...]]:
        """The box of the part within a box of the whole array, and the index of its cells in that box."""
        start, stop = [], []
        where: list[slice | int] = []
        empty = False
        for axis, (a, b, r) in enumerate(zip(*box, self.ranges, strict=True)):
            low, high = (min(max(-(-(end - r.start) // r.step), 0), len(r)) for end in (a, b))
            empty |= low >= high
            first = r.start + low * r.step - a
            if axis in self.kept:
                start.append(low)
                stop.append(high)
                where.append(slice(first, first + (high - low - 1) * r.step + 1, r.step))
            else:
                where.append(first)
        if empty:
            return Box(tuple(start), tuple(start)), (slice(0, 0),) * len(self.ranges)
        return Box(tuple(start), tuple(stop)), tuple(where)


def parse_slices(text: str) -> tuple[Any, ...]:
    """Parse slices, as NumPy writes them.

    Raises
    ------
    ValueError
        An entry is neither an integer, a slice, nor ``...``.

    Examples
    --------
    >>> parse_slices("-1, :, ::2")
    (-1, slice(None, None, None), slice(None, None, 2))
    """
    found: list[Any] = []
    for word in text.strip().removeprefix("[").removesuffix("]").split(","):
        numbers = [part.strip() for part in word.split(":")]
        try:
            if word.strip() == "...":
                found.append(...)
            elif len(numbers) == 1:
                found.append(int(numbers[0]))
            elif len(numbers) <= 3:
                found.append(slice(*(int(part) if part else None for part in numbers)))
            else:
                raise ValueError
        except ValueError:
            raise ValueError(f"{word!r} in {text!r} is neither an index nor a slice such as 2:10:3") from None
    return tuple(found)
