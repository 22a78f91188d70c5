"""Passes over arrays that take turns. On a GPU, those that take less time than their start are recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpihpc.array import DistArray
from mpihpc.core.device import CPU

if TYPE_CHECKING:
    from mpihpc.stencil.plans import Stencil

Arrays = tuple[DistArray, ...]

_SHORT = 1 << 26  # bytes of a block; a pass over a larger one takes longer than its start
_ROUND = 8  # passes, at least, that are begun at once
_OFTEN = 4 * _ROUND  # passes for which it is worth while to record some
_KEPT = 4  # recordings


class Turns:
    """The passes of a plan over some arrays, which change places in each.

    Parameters
    ----------
    stencil : Stencil
        The plan of a pass.
    advance : callable
        Makes a pass of so many steps over the arrays, and returns them in their new places.
    """

    def __init__(self, stencil: Stencil, advance: Callable[[Arrays, int], Arrays]) -> None:
        self._stencil, self._advance = stencil, advance
        # By where the arrays lie: how many passes a round has, and what makes it again.
        self._rounds: dict[object, tuple[int, Callable[[], None]]] = {}

    def run(self, arrays: Arrays, steps: int, callback: Callable[[int], None] | None = None) -> Arrays:
        """Make so many steps, and return the arrays in their new places. Collective."""
        done, most = 0, self._stencil.fusing.steps
        while done < steps:
            count = min(most, steps - done)
            passes = self._round(arrays, (steps - done) // most)
            if not passes:
                arrays, passes = self._advance(arrays, count), 1
            for _ in range(passes):
                done += count
                if callback:
                    callback(done)
        return arrays

    def _round(self, arrays: Arrays, left: int) -> int:
        """Make some passes, after which all arrays are in their places again, and return how many these are.

        0: none were made, because they send messages, or there is too much to do or too little `left`.
        """
        plan, device = self._stencil, self._stencil.device
        if device is CPU or not plan.halo.silent or arrays[0].local.nbytes > _SHORT:
            return 0
        where = tuple((device.address(array.padded), array.padded.strides) for array in arrays)
        if where in self._rounds:
            passes, again = self._rounds[where]
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
            while passes < _ROUND or not all(map(operator.is_, now, arrays)):
                now = self._advance(now, plan.fusing.steps)
                passes += 1

        if len(self._rounds) == _KEPT:
            self._rounds.clear()
        again = device.recorded(work)
        self._rounds[where] = passes, again
        return passes
