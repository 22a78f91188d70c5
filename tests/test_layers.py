"""The layers: the code against the table of docs/design.md, and the checker against trees that break each rule."""

import shutil
from pathlib import Path

import pytest

import mpihpc
from layers import PACKAGE, Table, check, imports, modules

ROOT = Path(mpihpc.__file__).parent
DESIGN = Path(__file__).parent.parent / "docs/design.md"
TABLE = Table.read(DESIGN.read_text())

EXCEPTIONS = {
    ("array.distarray", "linalg.matmul"): "a @ b is a method of the array, and products stand on arrays",
    ("core.device", "core.gpu"): "a device is found by its name; the GPU's module is imported where it is asked for",
}

WITHOUT_MPI = ("core.decomposition", "core.layouts", "core.projection", "array.exact_sums", "stencil.taps", "kernels")


def test_the_code_follows_the_table():
    assert check(ROOT, TABLE, EXCEPTIONS) == []


def test_the_table_is_whole():
    known = modules(ROOT)
    assert len(TABLE.floors) > 8 and len(TABLE.arrows) > 4
    assert sum(len(list(imports(path, known))) for name, path in known.items() if name != "_core") > 200


def test_arithmetic_and_kernels_know_nothing_of_mpi():
    for name, path in modules(ROOT).items():
        if any(name == room or name.startswith(room + ".") for room in WITHOUT_MPI):
            assert "mpi4py" not in path.read_text(), name


# --- the checker: each rule is broken in a tree of its own

SMALL = """
| floor | rooms | what |
|---|---|---|
| top | `jobs` | |
| middle | `left` `right` (`left` → `right`) | |
| bottom | `base` `_core` | |
"""
FILES = {
    "jobs.py": "from mpihpc import left",
    "left/__init__.py": "from mpihpc.left import one\nfrom mpihpc.right import f",
    "left/one.py": "from mpihpc import base",
    "left/two.py": "",
    "right.py": "import mpihpc.base",
    "base.py": "import os",
}


@pytest.fixture
def tree(tmp_path):
    """``tree(**changes)``: what the checker says of the small tree with other files; None: without the file."""

    def made(changes=(), table=SMALL, exceptions=()):
        root = tmp_path / PACKAGE
        shutil.rmtree(root, ignore_errors=True)
        for name, text in (FILES | dict(changes)).items():
            if text is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        return check(root, Table.read(table), dict(exceptions))

    return made


def test_a_right_tree(tree):
    assert tree() == []


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("base.py", "def f():\n    from mpihpc.jobs import g\n", "base imports jobs from above"),
        ("base.py", "def f():\n    if 1:\n        import mpihpc.left.one\n", "base imports left.one from above"),
        (
            "base.py",
            "class A:\n    async def f(self):\n        from mpihpc import right\n",
            "base imports right from above",
        ),
        (
            "base.py",
            "try:\n    import mpihpc.right as r\nexcept ImportError:\n    pass",
            "base imports right from above",
        ),
        ("right.py", "from mpihpc import left, base", "right imports left along its floor"),
        (
            "left/one.py",
            "def f():\n    from mpihpc.left import two, one",
            "imports go in a circle: left.one to left.one",
        ),
        ("left/two.py", "from mpihpc import left\n", None),
        ("left/one.py", "from mpihpc.left import x", "imports go in a circle: left to left.one to left"),
        ("right.py", "from mpihpc import _core", "right imports _core, which only core.watchdog and kernels.cpu do"),
        ("other.py", "", "other is in no room of the table"),
        ("jobs.py", None, "the table names jobs, which does not exist"),
        ("left/__init__.py", "", "the arrow left to right is not used"),
    ],
)
def test_what_breaks_a_rule(tree, file, text, says):

    assert tree({file: text}) == ([says] if says else [])


def test_imports_for_type_checking_are_free(tree):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mpihpc.jobs import g\n"
    assert tree({"base.py": text}) == []
    assert tree({"base.py": text + "else:\n    from mpihpc.jobs import g\n"}) == ["base imports jobs from above"]


def test_an_exception_is_used_or_wrong(tree):
    upwards = {"base.py": "def f():\n    from mpihpc import jobs\n"}
    reason = {("base", "jobs"): "because"}
    assert tree(upwards, exceptions=reason) == []
    assert tree(exceptions=reason) == ["the exception base to jobs is not used"]


def test_the_table_names_a_room_once(tree):
    assert "the table names base twice" in tree(table=SMALL.replace("`jobs`", "`jobs` `base`"))


def test_the_real_tree_with_an_import_upwards(tmp_path):
    """Inside a function of the real code; and the real table without a row's room, or with one more."""
    root = tmp_path / PACKAGE
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    with (root / "core/layouts.py").open("a") as file:
        file.write("\n\ndef late():\n    from mpihpc.io import read\n")
    assert check(root, TABLE, EXCEPTIONS) == ["core.layouts imports io from above"]
    text = DESIGN.read_text()
    assert "core.scratch is in no room of the table" in check(
        ROOT, Table.read(text.replace("`core.scratch` ", "", 1)), EXCEPTIONS
    )
    more = Table.read(text.replace("| `_core` ", "| `_core` `fft` ", 1))
    assert check(ROOT, more, EXCEPTIONS) == ["the table names fft, which does not exist"]
    unused = EXCEPTIONS | {("io.reading", "linalg"): "none"}
    assert check(ROOT, TABLE, unused) == ["the exception io.reading to linalg is not used"]
