"""Facts and findings: what instruments give, what checks say, and words for many ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LEVELS = ("ok", "note", "warning", "broken")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing the doctor says. `fix` is the command or setting that helps."""

    level: str
    what: str
    fix: str = ""


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as a short text.

    >>> ranges([0, 1, 2, 5])
    '0-2,5'
    """
    found: list[list[int]] = []
    for n in sorted(numbers):
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def ranks_word(ranks: str) -> str:
    """``rank 3``, ``ranks 0-2,5``."""
    return f"rank{'' if ranks.isdigit() else 's'} {ranks}"


def grouped(values: Sequence[Any]) -> dict[str, Any]:
    """Each value that occurs, under the ranks that have it."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(json.dumps(value), []).append(rank)
    return {ranges(who): values[who[0]] for who in ranks.values()}


def each(ranks: Sequence[Facts], name: str) -> Iterator[tuple[Any, str]]:
    """Every value of a fact, and which ranks have it if not all do."""
    values = grouped([facts[name] for facts in ranks])
    for who, value in values.items():
        if value is not None:
            yield value, f" ({ranks_word(who)})" if len(values) > 1 else ""
