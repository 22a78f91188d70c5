"""Passes over arrays that swap roles. On a GPU, passes shorter than their launch are recorded and replayed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpihpc.array import DistArray

if TYPE_CHECKING:
    from mpihpc.stencil.plans import Stencil

Arrays = tuple[DistArray, ...]
Advance = Callable[[Arrays, int], Arrays]
"""Makes a pass of a given number of steps over some arrays, and returns them in their new roles."""

_SHORT = 1 << 26  # bytes of a block; a pass over a larger one takes longer than its launch
_AT_ONCE = 8  # the fewest passes in a recording
_OFTEN = 4 * _AT_ONCE  # the fewest passes for which recording pays
_KEPT = 4  # recordings


class Stepper:
    """Makes the passes of a plan over arrays that swap roles after each pass.

    Parameters
    ----------
    stencil : Stencil
        The plan for one pass.
    """

    def __init__(self, stencil: Stencil) -> None:
        self._stencil = stencil
        # By the addresses of the arrays (the plan has checked the rest): the number of passes, and what repeats them.
        self._recorded: dict[object, tuple[int, Callable[[], None]]] = {}

    def run(
        self, advance: Advance, arrays: Arrays, steps: int, callback: Callable[[int], None] | None = None
    ) -> Arrays:
        """Make `steps` steps, and return the arrays in their new roles. Collective."""
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
        """Make several passes at once, after which all arrays have their old roles; returns the number of passes.

        0: none were made, because passes send messages, are too long to be recorded, or too few are left.
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
