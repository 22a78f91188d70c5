"""What this process has moved: counted where it happens, so that tests and users can hold it against the plans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Messages:
    """Messages, cells and bytes that this process has sent or received.

    What ranks of a node read in each other's memory counts as sent; empty messages that only announce it do not count.
    """

    messages: int = 0
    cells: int = 0
    bytes: int = 0

    def add(self, messages: int, cells: int, itemsize: int) -> None:
        """Count some more."""
        self.messages += messages
        self.cells += cells
        self.bytes += cells * itemsize


@dataclass
class Copies:
    """Bytes that this process has copied between its devices and its own memory."""

    to_host: int = 0
    to_device: int = 0


sent = Messages()
received = Messages()
copied = Copies()
