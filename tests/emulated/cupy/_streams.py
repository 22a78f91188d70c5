"""Streams that do nothing before they must, events, and recordings."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass
class Now:
    """The current stream, and the recording that goes on."""

    stream: Stream
    recording: Recording | None = None


class Stream:
    """A queue. What is done counts, so that an event is a number."""

    everywhere: ClassVar[weakref.WeakSet[Stream]] = weakref.WeakSet()
    null: ClassVar[Stream]

    def __init__(self, non_blocking: bool = False, priority: int | None = None) -> None:
        self._queue: list[Callable[[], object]] = []
        self._done = 0
        self._before: list[Stream] = []
        Stream.everywhere.add(self)

    def __enter__(self) -> Stream:
        self._before.append(now.stream)
        now.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        now.stream = self._before.pop()

    @property
    def end(self) -> int:
        return self._done + len(self._queue)

    def begin(self, work: Callable[[], object]) -> None:
        if now.recording and self in now.recording.streams:
            now.recording.note(self, work)
        else:
            self._queue.append(work)

    def run(self, end: int) -> None:
        while self._done < end:
            self._done += 1
            self._queue.pop(0)()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        stream, end = event.stream, event.end
        if event.recording and event.recording is now.recording:
            now.recording.wait(self, event)
        elif event.recording or (now.recording and self in now.recording.streams):
            raise RuntimeError("cudaErrorStreamCaptureIsolation: recorded or not, one of stream and event")
        else:
            self._queue.append(lambda: stream.run(end))

    def synchronize(self) -> None:
        if now.recording and self in now.recording.streams:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: a stream that is recorded cannot be waited for")
        self.run(self.end)

    def begin_capture(self, mode: Any = None) -> None:
        if self is null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        now.recording = Recording(self)

    def end_capture(self) -> Graph:
        recording, now.recording = now.recording, None
        assert recording
        return Graph(recording.finished())


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream, self.end, self.recording = null, 0, None

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or now.stream
        self.recording = now.recording if now.recording and self.stream in now.recording.streams else None
        self.end = now.recording.length if self.recording else self.stream.end

    @property
    def done(self) -> bool:
        return self.stream._done >= self.end

    def synchronize(self) -> None:
        self.stream.run(self.end)


class Recording:
    """Work of a stream, and of those that wait for its events; all must be waited for by it in the end."""

    def __init__(self, origin: Stream) -> None:
        self.origin, self.streams = origin, {origin}
        self._tape: list[Callable[[], object]] = []
        self._latest: dict[Stream, int] = {}

    @property
    def length(self) -> int:
        return len(self._tape)

    def note(self, stream: Stream, work: Callable[[], object]) -> None:
        self._tape.append(work)
        self._latest[stream] = self.length

    def wait(self, stream: Stream, event: Event) -> None:
        self.streams.add(stream)
        if stream is self.origin and event.end >= self._latest.get(event.stream, 0):
            self._latest.pop(event.stream, None)
        elif stream is not self.origin:
            self._latest.setdefault(stream, self.length)

    def finished(self) -> list[Callable[[], object]]:
        if self._latest.keys() - {self.origin}:
            raise RuntimeError("cudaErrorStreamCaptureUnjoined: a stream was not waited for in the end")
        return self._tape


class Graph:
    def __init__(self, tape: list[Callable[[], object]]) -> None:
        self._tape = tape

    def launch(self, stream: Stream | None = None) -> None:
        (stream or now.stream).begin(lambda: [work() for work in self._tape])


null = Stream.null = Stream()
now = Now(null)


def synchronize() -> None:
    """Do all that was begun."""
    for stream in list(Stream.everywhere):
        stream.synchronize()
