"""The layers of the package, held against the table in docs/design.md. Functions of (source, table, exceptions)."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "mpihpc"
ONLY = {"_core": {"kernels.cpu", "core.watchdog"}}
"""What these modules import, nobody else does."""


@dataclass(frozen=True)
class Table:
    """The floors of design.md, from the top down, and the arrows between rooms of one floor.

    A room is a package, with all modules in it that are no rooms themselves, or a module.
    """

    floors: tuple[tuple[str, ...], ...]
    arrows: frozenset[tuple[str, str]]

    @classmethod
    def read(cls, text: str) -> Table:
        """From the rows below ``| floor | rooms |``: rooms in backticks, ``(`a` → `b`)`` an arrow along the floor."""
        lines = text[text.index("| floor | rooms |") :].splitlines()[2:]
        rows = [line.split("|")[2] for line in lines[: next(i for i, x in enumerate([*lines, ""]) if x[:1] != "|")]]
        arrow = r"\(`([\w.]+)` → `([\w.]+)`\)"
        floors = tuple(tuple(re.findall(r"`([\w.]+)`", re.sub(arrow, "", row))) for row in rows)
        return cls(floors, frozenset(pair for row in rows for pair in re.findall(arrow, row)))

    def level(self, room: str) -> int:
        """The number of a room's floor; 0 is the highest."""
        return next(n for n, floor in enumerate(self.floors) if room in floor)

    def room(self, module: str) -> str | None:
        """The room of a module: the longest name that it begins with."""
        fits = [r for floor in self.floors for r in floor if module == r or module.startswith(r + ".")]
        return max(fits, key=len, default=None)


_parse = functools.cache(ast.parse)  # the same text is checked against several tables


def modules(root: Path) -> dict[str, Path]:
    """The package's modules by name, without ``mpihpc.``; the package itself is ``mpihpc``, the extension ``_core``."""
    found = {"_core": root}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or PACKAGE] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """All modules of the package that a file imports, at its top or inside functions; type checking aside."""
    nodes: list[ast.AST] = [_parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            base = node.module or ""
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix(f"{PACKAGE}.") in known else base for name in inner]
        for name in names:
            if name == PACKAGE or name.startswith(f"{PACKAGE}."):
                yield name.removeprefix(f"{PACKAGE}.")


def check(root: Path, table: Table, exceptions: Mapping[tuple[str, str], str]) -> list[str]:
    """What is wrong, a line each.

    Parameters
    ----------
    root : Path
        The package's folder.
    table : Table
        The floors.
    exceptions : mapping
        (module, imported module): the reason why this import may point up or along a floor.
    """
    known = modules(root)
    rooms = {module: table.room(module) for module in known}
    for module, path in known.items():  # a package that only holds rooms
        if rooms[module] is None and path.name == "__init__.py" and not set(imports(path, known)):
            rooms[module] = next((r for floor in table.floors for r in floor if r.startswith(module + ".")), None)
    wrong = [f"{module} is in no room of the table" for module, room in rooms.items() if room is None]
    listed = [room for floor in table.floors for room in floor]
    wrong += [f"the table names {room}, which does not exist" for room in listed if room not in known]
    wrong += [f"the table names {room} twice" for room in set(listed) if listed.count(room) > 1]
    used: set[tuple[str, str]] = set()
    arrows: set[tuple[str, str]] = set()
    inside: dict[str, set[str]] = {}
    for module, path in known.items():
        if module == "_core" or rooms[module] is None:
            continue
        for imported in imports(path, known):
            here, there = rooms[module], rooms.get(imported)
            if there is None:
                wrong.append(f"{module} imports {imported}, which is in no room")
            elif (module, imported) in exceptions:
                used.add((module, imported))
            elif module not in ONLY.get(imported, {module}):
                wrong.append(f"{module} imports {imported}, which only {' and '.join(sorted(ONLY[imported]))} do")
            elif here == there:
                inside.setdefault(module, set()).add(imported)
            elif (here, there) in table.arrows:
                arrows.add((here, there))
            elif table.level(here) >= table.level(there):
                where = "along its floor" if table.level(here) == table.level(there) else "from above"
                wrong.append(f"{module} imports {imported} {where}")
    wrong += [f"the exception {a} to {b} is not used" for a, b in exceptions.keys() - used]
    wrong += [f"the arrow {a} to {b} is not used" for a, b in table.arrows - arrows]
    wrong += [f"imports go in a circle: {' to '.join(circle)}" for circle in circles(inside)]
    return sorted(set(wrong))


def circles(edges: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """The circles in a graph, each at least once."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> Iterator[list[str]]:
        if node in path:
            yield [*path[path.index(node) :], node]
        elif node not in done:
            for other in sorted(edges.get(node, ())):
                yield from walk(other, [*path, node])
            done.add(node)

    for node in sorted(edges):
        yield from walk(node, [])
