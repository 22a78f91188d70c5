"""Configurations: one dataclass per program, filled from a file and from the command line.

The fields of the dataclass are the flags (``--steps``), the keys of a TOML file (``steps = 100``), and what a result
remembers of the run that made it. Flags win over the file, the file over the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, field, fields
from typing import Any, NoReturn, TypeVar

from mpihpc.core.failure import nearest
from mpihpc.io.hdf5 import open_file

Config = TypeVar("Config")


def option(
    default: Any, help: str, *, type: Callable[[str], Any] = str, metavar: str = "X", separator: str = ""
) -> Any:
    """A field of a configuration.

    Parameters
    ----------
    default : object
        A bool makes a switch, ``--verify`` and ``--no-verify``.
    help, metavar : str
        For ``--help``.
    type : callable
        Makes the value from a text, or raises `ValueError`.
    separator : str
        How the entries of a list in a file are joined to the text of a flag. " ": the flag takes several words.
    """
    return field(default=default, metadata={"help": help, "type": type, "metavar": metavar, "separator": separator})


def parse_config(
    config: type[Config], argv: Sequence[str] | None, *, prog: str, description: str, epilog: str, version: str
) -> Config:
    """The configuration for a command line; ``--config FILE`` names a file to begin with.

    Parameters
    ----------
    config : type
        A dataclass whose fields are made by `option`.
    argv : sequence of str, optional
        Default: the arguments of this process.
    prog, description, epilog, version : str
        For ``--help`` and ``--version``.

    Raises
    ------
    ValueError, OSError
        One line that says what is wrong, and where.
    SystemExit
        After ``--help`` and ``--version``.
    """
    parser = Parser(prog=prog, description=description, epilog=epilog)
    parser.add_argument("--config", metavar="FILE", help="options from a .toml file, or those of an earlier result .h5")
    for item in fields(config):  # type: ignore[arg-type]
        name, about = "--" + item.name.replace("_", "-"), item.metadata
        if isinstance(item.default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, help=about["help"])
        else:
            several = "+" if about["separator"] == " " else None
            parser.add_argument(name, metavar=about["metavar"], help=about["help"], nargs=several)
    parser.add_argument("--version", action="version", version=version)
    given = vars(parser.parse_args(argv))
    file = given.pop("config", None)
    known = {item.name: item for item in fields(config)}  # type: ignore[arg-type]
    values = _from_file(file, known) if file else {}
    for name, value in given.items():
        values[name] = _convert(known[name], value, "--" + name.replace("_", "-"))
    return config(**values)


def stored(config: Any) -> str:
    """A configuration as it is written into a result, to be read by ``--config``."""
    return json.dumps({k: v for k, v in asdict(config).items() if v is not None}, default=str)


class Parser(argparse.ArgumentParser):
    """Errors are one line, and only what was given is in the result."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        # As argparse knows negative numbers, but for exponents and such.
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help tells all)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            hint = nearest(word, options) if word.startswith("-") else "--help tells all"
            raise ValueError(f"unknown argument {unknown[0]!r}: {hint}")
        return found


def _from_file(file: str, known: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """The values in a TOML file, or in the result of an earlier run."""
    try:
        with open(file, "rb") as stream:
            if stream.read(8) == b"\x89HDF\r\n\x1a\n":
                with open_file(file) as h5:
                    content = json.loads(h5.attrs.get("config", "null"))
            else:
                stream.seek(0)
                content = tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no configuration: it was not written by a program of mpihpc")
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ValueError(f"{file}: unknown key {key!r}: {nearest(key, known)}")
        values[name] = _convert(known[name], value, f"{os.path.basename(file)}: {key}")
    return values


def _convert(item: Field[Any], value: Any, where: str) -> Any:
    """A value from a flag or a file in the type of its field."""
    if value in ("", []):
        raise ValueError(f"{where}: it is empty")
    if isinstance(item.default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{where}: {value!r} is neither true nor false")
        return value
    make, separator = item.metadata["type"], item.metadata["separator"]
    try:
        if separator == " ":
            return tuple(make(str(entry)) for entry in (value if isinstance(value, list) else [value]))
        if isinstance(value, bool | Mapping):
            raise ValueError
        return make(separator.join(map(str, value)) if separator and isinstance(value, list) else str(value))
    except ValueError:
        wanted = "an integer" if make is int else f"like {item.metadata['metavar']}"
        raise ValueError(f"{where}: {value!r} is not {wanted}") from None
