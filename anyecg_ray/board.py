"""How training goes, seen from the driver: a live line, a line an epoch, and TensorBoard's event files.

Workers may run on other machines and their output goes to log files; what they want shown they put on a board, a
small actor, which the driver looks at every second.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from tensorboardX import SummaryWriter

from anyecg_ray import storage

EPOCHS = "epochs.json"
"""Beside the event files: what each epoch of this run came to, to read without TensorBoard."""


class Board:
    """Keeps the latest state and all epochs."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] = {}
        self._epochs: list[dict[str, Any]] = []

    def show(self, latest: dict[str, Any]) -> None:
        """Where an epoch stands."""
        self._latest = latest

    def ended(self, epoch: dict[str, Any]) -> None:
        """What an epoch came to; one that is done again after a crash takes the place of the first."""
        self._epochs = [e for e in self._epochs if e["epoch"] < epoch["epoch"]] + [epoch]

    def read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Latest state, and the epochs so far."""
        return self._latest, self._epochs


@contextmanager
def shown(uri: str, epochs: int) -> Iterator[Any]:
    """A board whose notes are shown while the block runs; event files go to uri/tensorboard."""
    notes: Any = ray.remote(num_cpus=0)(Board).remote()
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        thread = threading.Thread(target=_watch, args=(notes, stop, epochs, folder), daemon=True)
        thread.start()
        try:
            yield notes
        finally:
            stop.set()
            thread.join()
            (Path(folder) / EPOCHS).write_text(json.dumps(ray.get(notes.read.remote())[1], indent=1))
            _keep(Path(folder), storage.join(uri, "tensorboard"))
            ray.kill(cast(Any, notes))


def _watch(notes: Any, stop: threading.Event, epochs: int, folder: str) -> None:
    writer, seen, started, first = SummaryWriter(folder), 0, time.monotonic(), None
    terminal, ended = sys.stderr.isatty(), False
    while not ended:
        ended = stop.wait(1.0)
        try:
            latest, done = ray.get(notes.read.remote(), timeout=60 if ended else 10)
        except ray.exceptions.GetTimeoutError:  # a machine that is busy starting answers later
            continue
        except Exception:  # Ray is going down: what there was has been shown
            break
        for epoch in done[seen:]:
            first = epoch["epoch"] if first is None else first
            _write(writer, epoch)
            left = (time.monotonic() - started) / (epoch["epoch"] - first + 1) * (epochs - epoch["epoch"] - 1)
            print(f"{chr(13) if terminal else ''}{_line(epoch)}, at most {left / 60:.0f} min left", flush=True)
        seen = len(done)
        if terminal and latest and not ended:
            told = f"epoch {latest['epoch']}: loss {latest['loss']:.4f}, {latest['samples_per_s']:,.0f} windows/s"
            print(f"\r{told}   ", end="", file=sys.stderr, flush=True)
    writer.close()


def _line(epoch: dict[str, Any]) -> str:
    best = " (best)" if epoch["best"] else ""
    return (
        f"epoch {epoch['epoch']}: loss {epoch['loss']:.4f}, validation AUROC {epoch['score']:.4f}{best}, "
        f"{epoch['samples_per_s']:,.0f} windows/s"
    )


def _write(writer: SummaryWriter, epoch: dict[str, Any]) -> None:
    for name in ("loss", "score", "samples_per_s", "lr"):
        writer.add_scalar(name, epoch[name], epoch["epoch"])
    for key, auroc in epoch["aurocs"].items():
        if np.isfinite(auroc):
            writer.add_scalar(f"auroc/{key}", auroc, epoch["epoch"])


def _keep(folder: Path, uri: str) -> None:
    for file in folder.iterdir():
        storage.write_atomic(storage.join(uri, file.name), file.read_bytes())
