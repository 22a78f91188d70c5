"""The floors of the house: imports point down, or along a floor."""

import ast
from pathlib import Path

import mpihpc

FLOORS = [
    (
        "machine",
        [
            "kernels",
            "core.device",
            "core.gpu",
            "core.scratch",
            "core.staging",
            "core.failure",
            "core.watchdog",
            "core.dtypes",
            "core.tally",
            "_core",
        ],
    ),
    ("geometry", ["core.decomposition", "core.layouts", "core.projection", "core.topology"]),
    ("movement", ["core.sharing", "core.transfer", "core.halo"]),
    ("array", ["array"]),
    ("user modules", ["io", "linalg", "stencil", "ndimage", "blocks"]),
    (
        "programs",
        ["programs", "stencil.__main__", "matmul", "view", "doctor"],
    ),
]


def floor(module):
    """Which floor a module of the package is on; the longest name that fits decides."""
    fits = [
        (len(name), level)
        for level, (_, names) in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    assert fits, f"mpihpc.{module} is on no floor: add it to FLOORS"
    return max(fits)[1]


def modules():
    root = Path(mpihpc.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")
        yield name, path, root


def imports(path, root):
    """The modules of the package that a file imports at its top; `import mpihpc` itself is the entrance hall."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mpihpc":
            base = node.module.removeprefix("mpihpc").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                file = root.joinpath(*name.split("."))
                is_module = file.is_dir() or file.with_suffix(".py").exists() or name == "_core"
                yield name if is_module else base


def test_imports_point_down():
    checked = 0
    for name, path, root in modules():
        if name in ("", "core"):
            continue
        for imported in imports(path, root):
            if imported in ("", "core"):
                continue
            assert floor(imported) <= floor(name), f"mpihpc.{name} imports mpihpc.{imported} from above"
            checked += 1
    assert checked > 20


def test_geometry_and_kernels_know_nothing_of_mpi():
    for name, path, _ in modules():
        if (
            name in ("core.decomposition", "core.layouts", "core.projection", "array.exact_sums")
            or name.split(".")[0] == "kernels"
            or name == "stencil.taps"
        ):
            assert "mpi4py" not in path.read_text(), name
