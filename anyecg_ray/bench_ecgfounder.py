"""The way ECGFounder's own code scores a folder, written here after its description, to measure against.

wfdb reads a record, scipy filters it lead by lead, DataLoader workers collate batches of 512, and the network
runs eagerly in float32. Only the benchmarks use this module. It is correct, and slow.
Source: ECGFounder's released dataset and filter (PKUDigitalHealth/ECGFounder, August 2025).
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.signal
import torch
import wfdb
from torch.utils.data import DataLoader, Dataset

from anyecg_ray.model import Bundle


class Strip(NamedTuple):
    """Ten seconds of one record on disk."""

    record: str
    start: int
    stop: int


class Strips(Dataset[torch.Tensor]):
    """Each strip as a normalised (leads, samples) tensor."""

    def __init__(self, strips: Sequence[Strip], leads: Sequence[str]) -> None:
        self._strips, self._leads = strips, leads

    def __len__(self) -> int:
        return len(self._strips)

    def __getitem__(self, i: int) -> torch.Tensor:
        """(leads, samples) float32."""
        strip = self._strips[i]
        record = wfdb.rdrecord(strip.record, sampfrom=strip.start, sampto=strip.stop)
        names = [name.upper() for name in record.sig_name]
        signal = np.nan_to_num(record.p_signal.T[[names.index(lead.upper()) for lead in self._leads]])
        signal = filter_bandpass(signal, record.fs)
        return torch.from_numpy(((signal - signal.mean()) / (signal.std() + 1e-8)).astype(np.float32))


def filter_bandpass(signal: np.ndarray, fs: float) -> np.ndarray:
    """The released filter: 50 Hz notch, 0.67–40 Hz band-pass, minus a running median of 0.4 s.

    signal: (leads, samples) float64, millivolts. Returns the same shape and units.
    """
    out = np.zeros_like(signal)
    for lead, x in enumerate(signal):
        b, a = scipy.signal.iirnotch(50, 30, fs)
        x = scipy.signal.filtfilt(b, a, x)
        b, a = scipy.signal.butter(4, [0.67, 40], "bandpass", fs=fs)
        x = scipy.signal.filtfilt(b, a, x)
        out[lead] = x - scipy.signal.medfilt(x, int(0.4 * fs) + 1 | 1)
    return out


def windows_per_s(bundle: Bundle, strips: Sequence[Strip], batch: int, workers: int) -> float:
    """Strips scored per second, the first batch (workers starting) left out. `strips` must fill two batches."""
    net = bundle.network()
    loader = DataLoader(Strips(strips, bundle.recipe.leads), batch_size=batch, num_workers=workers)
    scored, started = 0, 0.0
    with torch.inference_mode():
        for i, x in enumerate(loader):
            torch.sigmoid(net(x))
            if i == 0:
                started = time.perf_counter()
            else:
                scored += len(x)
    return scored / (time.perf_counter() - started)
