"""Docstrings: every example is true, and everything public has one."""

import doctest
import importlib
import inspect
import types
from pathlib import Path

import pytest

import mpihpc
from layers import modules

ROOT = Path(mpihpc.__file__).parent

# Public, and without an example: the reason. An entry that is not needed fails.
WITHOUT_EXAMPLE = {
    "mpihpc.__version__": "a string",
    "mpihpc.io": "a module",
    "mpihpc.linalg": "a module",
    "mpihpc.ndimage": "a module",
    "mpihpc.stencil": "a module",
    "mpihpc.io.Output": "a protocol",
    "mpihpc.linalg.Layouts": "plain data that `layouts` returns",
}

PROGRAMS = ("__main__", "_core")  # doors without examples, and the compiled module
MODULES = sorted(name for name in modules(ROOT) if name.split(".")[-1] not in PROGRAMS)


def load(name):
    return importlib.import_module("mpihpc" if name == "mpihpc" else f"mpihpc.{name}")


def public():
    """Name -> object, of all that users are meant to call."""
    found = {}
    for name in ("mpihpc", "io", "linalg", "ndimage", "stencil"):
        module = load(name)
        found |= {f"{module.__name__}.{member}": getattr(module, member) for member in module.__all__}
    for name, member in inspect.getmembers(mpihpc.DistArray, callable):
        if not name.startswith("_"):
            found[f"mpihpc.DistArray.{name}"] = member
    return found


PUBLIC = public()


def has_example(thing):
    text = inspect.getdoc(thing) or ""
    run = [e for e in doctest.DocTestParser().get_examples(text) if not e.options.get(doctest.SKIP)]
    return "Examples\n--------\n" in text and bool(run)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where they write files
    found = doctest.testmod(load(name))
    assert found.failed == 0


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - WITHOUT_EXAMPLE.keys()))
def test_everything_public_has_an_example(name):
    assert has_example(PUBLIC[name])


@pytest.mark.parametrize("name", sorted(WITHOUT_EXAMPLE))
def test_no_exception_is_unused(name):
    assert not has_example(PUBLIC[name])
    kind = "a module" if isinstance(PUBLIC[name], types.ModuleType) else ""
    assert WITHOUT_EXAMPLE[name].startswith(kind)


def test_the_properties_of_arrays_are_described():
    described = inspect.getdoc(mpihpc.DistArray).partition("Attributes\n")[2]
    missing = [
        name
        for name, member in vars(mpihpc.DistArray).items()
        if isinstance(member, property) and not name.startswith("_") and name not in described
    ]
    assert missing == []
