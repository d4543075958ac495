"""Every object below a location, with many listings under way at once and little in memory.

Paths come in S3's own order, that of the bytes of the whole path, from folders too: the same archive is the same
list wherever it lies. On S3 a flat listing pages through everything below a prefix, 1,000 objects a request; asking
folder by folder would cost a request for each of MIMIC-IV-ECG's 960,000.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event
from typing import Any

import numpy as np

from anyecg_ray import storage
from anyecg_ray.locations import printable
from anyecg_ray.storage_errors import explain

THREADS = 32
"""Parts of the tree that are listed at once on S3, where an answer takes a tenth of a second."""

LOCAL_THREADS = 8
"""The same on disk: a few hide the latency of a cold disk or a network; more would only contend for the GIL."""

PARTS = 64
"""Folders to list in parallel: the tree is opened level by level until there are so many."""

LEVELS = 8
"""Levels that are opened at most: a chain of single folders is not followed for ever."""

LEVEL_ENTRIES = 20_000
"""Entries up to which a folder is divided into its sub-folders; one with more is listed as a whole."""

PAGE = 1000
"""Paths that are handed on together, as many as S3 gives in one answer."""

PACKED = 100_000
"""Paths of one folder from which on they are packed."""

AHEAD = 16
"""Pages of one part that may wait for their turn."""

Page = list[str]


def walk(uri: str, suffix: str) -> Iterator[str]:
    """Paths, relative to `uri`, of all objects below it whose name ends with `suffix`. Raises StorageError."""
    parts = _parts(uri)
    stop = Event()
    threads = LOCAL_THREADS if storage.is_local(uri) else THREADS
    with ThreadPoolExecutor(threads) as pool:
        try:
            under_way: deque[Queue[Page | Exception | None]] = deque()
            for part in parts:
                pages: Queue[Page | Exception | None] = Queue(AHEAD)
                pool.submit(_list_part, uri, part, suffix, pages, stop)
                under_way.append(pages)
                # no further ahead than this, or a slow reader would find the whole tree in memory
                if len(under_way) == threads:
                    yield from _drained(under_way.popleft())
            while under_way:
                yield from _drained(under_way.popleft())
        finally:
            stop.set()


def by_folder(paths: Iterable[str], limit: int) -> Iterator[list[str]]:
    """The paths of each folder together, at most `limit` at a time; a folder with more comes in several lists.

    In walk's order a folder's own files surround those of its sub-folders, so open folders wait on a stack.
    """
    waiting: list[tuple[str, list[str]]] = []
    for path in paths:
        folder = path[: path.rfind("/") + 1]
        while waiting and not folder.startswith(waiting[-1][0]):
            if names := waiting.pop()[1]:
                yield names
        if not waiting or waiting[-1][0] != folder:
            waiting.append((folder, []))
        here = waiting[-1][1]
        here.append(path)
        if len(here) == limit:
            yield here[:]
            here.clear()
    yield from (names for _, names in reversed(waiting) if names)


def _parts(uri: str) -> list[str]:
    """The tree in parts, in order: folders to list whole, which end with "/" (the root is ""), and single files."""
    parts, closed = [""], set[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(LEVELS):
            open_ = [p for p in parts if (not p or p.endswith("/")) and p not in closed]
            if not open_ or len(open_) >= PARTS:
                break
            for folder, entries in zip(open_, pool.map(lambda f: _level(uri, f), open_), strict=True):
                if entries is None:
                    closed.add(folder)
                else:
                    parts.remove(folder)
                    parts += entries
    return sorted(parts)


def _level(uri: str, folder: str) -> list[str] | None:
    """What is directly in a folder, None where that is too much to hold for all folders of a level."""
    if storage.is_local(uri):
        entries = list(islice(_scanned(uri, folder), LEVEL_ENTRIES + 1))
        return entries if len(entries) <= LEVEL_ENTRIES else None
    entries = []
    for page in _s3_pages(uri, folder, "/"):
        entries += page
        if len(entries) > LEVEL_ENTRIES:
            return None
    return entries


def _list_part(uri: str, part: str, suffix: str, pages: "Queue[Page | Exception | None]", stop: Event) -> None:
    """Put the part's pages into `pages`, then None; where that fails, the error."""

    def put(item: Page | Exception | None) -> None:
        while not stop.is_set():
            try:
                return pages.put(item, timeout=0.2)
            except Full:
                continue
        raise InterruptedError

    try:
        for page in _pages(uri, part, suffix):
            if page:
                put(page)
        put(None)
    except InterruptedError:
        pass
    except Exception as error:
        try:
            put(error)
        except InterruptedError:
            pass


def _pages(uri: str, part: str, suffix: str) -> Iterator[Page]:
    if part and not part.endswith("/"):
        yield [part] if part.endswith(suffix) else []
    elif storage.is_local(uri):
        paths = _local_tree(uri, part, suffix)
        while page := list(islice(paths, PAGE)):
            yield page
    else:
        yield from ([path for path in page if path.endswith(suffix)] for page in _s3_pages(uri, part))


def _drained(pages: "Queue[Page | Exception | None]") -> Iterator[str]:
    while True:
        try:
            page = pages.get(timeout=1)
        except Empty:
            continue  # a bare get() would not let a Ctrl-C through
        if page is None:
            return
        if isinstance(page, Exception):
            raise page
        yield from map(printable, page)


def _s3_pages(uri: str, folder: str, delimiter: str = "") -> Iterator[Page]:
    """Pages of paths below a prefix; with the delimiter "/" what is directly there, folders with their slash."""
    fs, path = storage.filesystem(uri)
    bucket, key, _ = fs.split_path(path)
    root = f"{key.rstrip('/')}/" if key.strip("/") else ""
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": root + folder, "Delimiter": delimiter}
    while True:
        answer = storage.retried(lambda: fs.call_s3("list_objects_v2", **options), uri)
        keys = [o["Key"] for o in answer.get("Contents", ()) if not o["Key"].endswith("/")]
        keys += [p["Prefix"] for p in answer.get("CommonPrefixes", ())]
        yield [key[len(root) :] for key in keys]
        if not answer.get("IsTruncated"):
            return
        options["ContinuationToken"] = answer["NextContinuationToken"]


def _scanned(uri: str, folder: str) -> Iterator[str]:
    """What is directly in a folder, in no order, sub-folders with a slash."""
    path = os.path.join(storage.filesystem(uri)[1], folder)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                yield folder + entry.name + ("/" if _is_folder(entry) else "")
    except OSError as error:
        # a folder below may be named after a patient
        raise explain(error, storage.join(uri, "…") if folder else uri) from None


def _local_tree(uri: str, folder: str, suffix: str) -> Iterator[str]:
    for path in _sorted(p for p in _scanned(uri, folder) if p.endswith(("/", suffix))):
        if path.endswith("/"):
            yield from _local_tree(uri, path, suffix)
        else:
            yield path


def _sorted(paths: Iterator[str]) -> Iterable[str]:
    """In order; a very large folder as packed bytes, 20 to 50 a path instead of 100."""
    blocks: list[np.ndarray] = []
    while block := list(islice(paths, PACKED)):
        if len(block) < PACKED and not blocks:
            return sorted(block)
        blocks.append(np.array([os.fsencode(path) for path in block]))
    packed = np.concatenate(blocks) if blocks else np.empty(0, "S1")
    packed.sort()
    return map(os.fsdecode, packed)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Folders, and links to folders unless they lead back to one that the way here came through, or above it: they
    would be walked for ever."""
    try:
        if not entry.is_dir():
            return False
    except OSError:  # a link to itself
        return False
    if not entry.is_symlink():
        return True
    target = os.path.join(os.path.realpath(entry.path), "")
    return not any(os.path.join(os.path.realpath(p), "").startswith(target) for p in Path(entry.path).parents)
