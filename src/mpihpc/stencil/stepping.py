"""Passes over arrays that take turns. On a GPU, those that take less time than their start are recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpihpc.array import DistArray

if TYPE_CHECKING:
    from mpihpc.stencil.plans import Stencil

Arrays = tuple[DistArray, ...]
Advance = Callable[[Arrays, int], Arrays]
"""Makes a pass of so many steps over some arrays, and returns them in their new places."""

_SHORT = 1 << 26  # bytes of a block; a pass over a larger one takes longer than its start
_AT_ONCE = 8  # passes, at least, of a recording
_OFTEN = 4 * _AT_ONCE  # passes for which it is worth while to record some
_KEPT = 4  # recordings


class Stepper:
    """Makes the passes of a plan over arrays that change places in each.

    Parameters
    ----------
    stencil : Stencil
        The plan of a pass.
    """

    def __init__(self, stencil: Stencil) -> None:
        self._stencil = stencil
        # By where the arrays lie (the plan has checked all else): how many passes, and what makes them again.
        self._recorded: dict[object, tuple[int, Callable[[], None]]] = {}

    def run(
        self, advance: Advance, arrays: Arrays, steps: int, callback: Callable[[int], None] | None = None
    ) -> Arrays:
        """Make so many steps, and return the arrays in their new places. Collective."""
        done, most = 0, self._stencil.fusing.steps
        while done < steps:
            count = min(most, steps - done)
            passes = self._some_at_once(advance, arrays, (steps - done) // most)
            if not passes:
                arrays, passes = advance(arrays, count), 1
            for _ in range(passes):
                done += count
                if callback:
                    callback(done)
        return arrays

    def _some_at_once(self, advance: Advance, arrays: Arrays, left: int) -> int:
        """Make some of the passes that are left, after which all arrays are in their places; returns how many.

        0: none were made, because they send messages, there is too much to do in one, or too few are left.
        """
        plan, device = self._stencil, self._stencil.device
        if not device.asynchronous or not plan.halo.silent or not 0 < arrays[0].local.nbytes <= _SHORT:
            return 0
        where = tuple((device.address(array.padded), array.padded.strides) for array in arrays)
        if where in self._recorded:
            passes, again = self._recorded[where]
            if passes > left:
                return 0
            again()
            return passes
        if left < _OFTEN:
            return 0
        passes = 0

        def work() -> None:
            nonlocal passes
            now, passes = arrays, 0
            while passes < _AT_ONCE or not all(map(operator.is_, now, arrays)):
                now = advance(now, plan.fusing.steps)
                passes += 1

        if len(self._recorded) == _KEPT:
            self._recorded.clear()
        again = device.recorded(work)
        self._recorded[where] = passes, again
        return passes
