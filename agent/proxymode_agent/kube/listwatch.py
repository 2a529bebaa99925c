"""List a collection, watch it, and keep doing so: one endless stream of changes that misses nothing.

The first list is what the API server has in memory (resourceVersion 0), as client-go's reflectors ask for it: a
thousand agents that start at once do not reach etcd; later lists are what etcd has. Bookmarks keep the resourceVersion
fresh, so that a watch that ends is resumed where it stopped. 410 means the server has forgotten that place: the
collection is listed again and compared with what was known, so that deletions during the gap are emitted too. A server
whose etcd was restored from a backup forgets that it ever was there, and says nothing until it is again; so one that
could not be reached for a while is asked first. When and why a watch is begun anew is decided in `restarts`. It keeps
(key, resourceVersion) of each object and nothing else: holding objects is the consumer's business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from proxymode_agent.backoff import chance
from proxymode_agent.kube import errors
from proxymode_agent.kube.client import PAGE_SIZE
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.listing import raw_items
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.restarts import Restart, RestartReason, Restarts, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from proxymode_agent.kube.client import KubeClient

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Changed(msgspec.Struct, Generic[T_co], frozen=True):
    """The object was created or changed. After a relist: it differs from what was emitted last."""

    key: ObjectKey
    object: T_co


class Deleted(msgspec.Struct, frozen=True):
    """The object is gone, or does not match the selectors any more."""

    key: ObjectKey


class Synced(msgspec.Struct, frozen=True):
    """All that was emitted so far is the whole collection as of this resourceVersion; sent after every list."""

    resource_version: str


_TIMING: Final = Timing()


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct):
    metadata: _Meta


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


_IDENTITY: Final = msgspec.json.Decoder(_Identity)
_EVENT: Final = msgspec.json.Decoder(_WatchEvent)
_IDLE_GRACE_SECONDS: Final = 30.0


def first_list(label_selector: str = "", field_selector: str = "") -> dict[str, str]:
    """The parameters of a ListWatch's first list, for whoever asks for it ahead. Such a list comes whole, whatever the
    limit."""
    return _selectors(label_selector, field_selector) | {"resourceVersion": "0"}


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    given = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return {name: value for name, value in given if value}


class ListWatch(Generic[T]):
    """The collection at `path` as events; iterate over `events()` once.

    `decode` turns one object's JSON into T and raises ValueError for what it cannot read (msgspec's and pydantic's
    errors are such): that object keeps its last known state, and the log says so. `decode_all` does so with an array
    of objects, for the first list: that is three times as fast as one by one. `restarted` is called with every new
    beginning but the first.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        decode: Callable[[bytes], T],
        *,
        decode_all: Callable[[memoryview], list[tuple[ObjectKey, str, T]]] | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timing: Timing = _TIMING,
        restarted: Callable[[RestartReason], None] = lambda reason: None,
    ) -> None:
        self._client = client
        self._path = path
        self._decode = decode
        self._decode_all = decode_all
        self._selectors = _selectors(label_selector, field_selector)
        self._first = first_list(label_selector, field_selector)
        self._timing = timing
        self._restarted = restarted
        self._restarts = Restarts(timing)
        self._known: dict[ObjectKey, str] = {}
        self._version: str | None = None
        self._page_size = PAGE_SIZE
        self._listed_at = 0.0
        self._complaint = ""

    async def events(self) -> AsyncGenerator[Changed[T] | Deleted | Synced, None]:
        """Changes for ever; ends only by cancellation."""
        async with aclosing(self.batches()) as batches:
            async for events in batches:
                for event in events:
                    yield event

    async def batches(self) -> AsyncGenerator[Sequence[Changed[T] | Deleted | Synced], None]:
        """The same events, those of a list many at a time."""
        while True:
            try:
                self._restarts.asked()
                if self._version is not None and self._restarts.unreached and await self._restored(self._version):
                    # In another history the same resourceVersion may be another object.
                    self._known = dict.fromkeys(self._known, "")
                    restart = self._restarts.restored()
                    logger.warning("API server was set back, listing again", extra={"resource": self._path})
                else:
                    if self._version is None:
                        async for events in self._list():
                            yield events
                    self._restarts.reached()
                    async for event in self._watch(self._version or ""):
                        yield (event,)
                    restart = self._restarts.ended(time.monotonic(), self._listed_at)
            except ApiError as error:
                restart = self._restarts.failed(error, time.monotonic(), listing=self._version is None)
                self._complain(error, restart)
            if restart.relist:
                self._version = None
            if restart.whole:
                self._page_size = 0
            self._restarted(restart.reason)
            await asyncio.sleep(restart.seconds)

    async def _restored(self, version: str) -> bool:
        """Whether the server has not come as far as this resourceVersion, which it or another one has told: they grow
        (KEP-5504). Asks for one object, as etcd has it. Raises ApiError."""
        found = await self._client.get(self._path, params=self._selectors | {"limit": "1"})
        try:
            return int(found["metadata"]["resourceVersion"]) < int(version)
        except (KeyError, TypeError, ValueError) as error:
            raise ApiError(0, "InvalidResponse", f"list of {self._path} without a resourceVersion: {error}") from error

    async def _list(self) -> AsyncIterator[Sequence[Changed[T] | Deleted | Synced]]:
        found: set[ObjectKey] = set()
        version = ""
        params, page_size = self._selectors, self._page_size
        if not self._listed_at:
            params, page_size = self._first, 0
        async for page in self._client.pages(self._path, self._read, params=params, page_size=page_size):
            changed: list[Changed[T]] = []
            for key, item_version, item in page.items:
                found.add(key)
                if self._known.get(key) != item_version:
                    self._known[key] = item_version
                    event = self._changed(key, item) if isinstance(item, msgspec.Raw) else Changed(key, item)
                    if event is not None:
                        changed.append(event)
            yield changed
            version = page.resource_version
            await asyncio.sleep(0)  # others may have their turn
        gone = [key for key in self._known if key not in found]
        for key in gone:
            del self._known[key]
        self._version = version
        self._listed_at = time.monotonic()
        self._page_size = PAGE_SIZE
        logger.info("listed", extra={"resource": self._path, "objects": len(found), "resource_version": version})
        yield (*map(Deleted, gone), Synced(version))

    def _read(self, array: memoryview) -> list[tuple[ObjectKey, str, T | msgspec.Raw]]:
        """Some items of a list: key, resourceVersion, and the object, undecoded where it may be known already."""
        if self._decode_all is not None and not self._listed_at:
            try:
                return [*self._decode_all(array)]
            except msgspec.ValidationError:
                pass  # one of them is unusual; which, and what of it, is told when it is decoded by itself
        return [(*_identity(raw), raw) for raw in raw_items(array)]

    async def _watch(self, version: str) -> AsyncIterator[Changed[T] | Deleted]:
        seconds = self._timing.watch * (1.0 + chance())
        if self._timing.resync is not None:
            seconds = min(seconds, max(1.0, self._listed_at + self._timing.resync - time.monotonic()))
        params = self._selectors | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        async with self._client.lines(self._path, params=params, idle_seconds=seconds + _IDLE_GRACE_SECONDS) as lines:
            self._restarts.stands(time.monotonic())
            async for line in lines:
                try:
                    event = _EVENT.decode(line)
                except msgspec.MsgspecError as error:
                    raise ApiError(0, "InvalidResponse", f"watch of {self._path}: {error}") from error
                if self._complaint:
                    logger.info("watch works again", extra={"resource": self._path})
                    self._complaint = ""
                if event.type == "ERROR":
                    raise errors.of_watch(event.object, self._path)
                key, self._version = _identity(event.object)
                if event.type in ("ADDED", "MODIFIED"):
                    self._known[key] = self._version
                    if (changed := self._changed(key, event.object)) is not None:
                        yield changed
                elif event.type == "DELETED":
                    self._known.pop(key, None)
                    yield Deleted(key)
                elif event.type != "BOOKMARK":
                    raise ApiError(0, "InvalidResponse", f"watch of {self._path}: event of unknown type {event.type!r}")

    def _changed(self, key: ObjectKey, raw: msgspec.Raw) -> Changed[T] | None:
        try:
            return Changed(key, self._decode(bytes(raw)))
        except ValueError as error:
            logger.error(
                "object cannot be decoded, its last state stays",
                extra={"resource": self._path, "object": str(key), "error": str(error)},
            )
            return None

    def _complain(self, error: ApiError, restart: Restart) -> None:
        """Once a kind of failure, not once a try: an absent CRD or a server that is down may last for hours."""
        if (complaint := f"{error.status} {error.reason}") != self._complaint:
            self._complaint = complaint
            seconds = round(restart.seconds, 2)
            logger.warning(
                "watch failed", extra={"resource": self._path, "error": str(error), "retry_seconds": seconds}
            )


def _identity(raw: msgspec.Raw) -> tuple[ObjectKey, str]:
    try:
        meta = _IDENTITY.decode(raw).metadata
    except msgspec.MsgspecError as error:
        raise ApiError(0, "InvalidResponse", f"object without readable metadata: {error}") from error
    if not meta.resource_version:
        raise ApiError(0, "InvalidResponse", f"object {meta.namespace}/{meta.name} without a resourceVersion")
    return ObjectKey(meta.namespace, meta.name), meta.resource_version
