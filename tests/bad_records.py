"""An archive of real ECGs among which lie all kinds of broken ones, each with the status that it must get."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from planted import PLANTED

from anyecg_ray.schema import Status

N = 5000
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INVALID = -32768


def write(
    folder: Path, name: str, signal: np.ndarray, fs: float = 500, leads: tuple[str, ...] = LEADS, gain: str = "1000"
) -> None:
    """A format-16 record. signal: (leads, samples) of sample values."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {len(signal)} {fs} {signal.shape[1]}"]
    lines += [
        f"{name}.dat 16 {gain}/mV 16 0 {row[0] if len(row) else 0} 0 0 {lead}"
        for lead, row in zip(leads, signal, strict=False)
    ]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.dat").write_bytes(signal.T.astype("<i2").tobytes())


def beats(fs: float = 500, seconds: float = 10, leads: int = 12) -> np.ndarray:
    """Something that looks like an ECG to the quality measures: (leads, samples) of sample values, 1000 to a mV."""
    t = np.arange(round(fs * seconds)) / fs % 0.8
    waves = ((0.15, 0.20, 0.025), (-0.1, 0.285, 0.01), (1.1, 0.31, 0.011), (-0.25, 0.335, 0.01), (0.3, 0.55, 0.04))
    ecg = sum(a * np.exp(-(((t - at) / width) ** 2) / 2) for a, at, width in waves)
    noise = np.random.default_rng(0).normal(0, 0.008, (leads, len(t)))
    return ((ecg * np.linspace(0.7, 1.3, leads)[:, None] + noise) * 1000).round()


def _truncated(folder: Path, name: str) -> None:
    write(folder, name, beats())
    file = folder / f"{name}.dat"
    file.write_bytes(file.read_bytes()[:60_000])


def _no_signal_file(folder: Path, name: str) -> None:
    write(folder, name, beats())
    (folder / f"{name}.dat").unlink()


def _not_utf_8(folder: Path, name: str) -> None:
    write(folder, name, beats())
    header = folder / f"{name}.hea"
    header.write_bytes(header.read_bytes() + "# Prüfung\n".encode("latin-1"))


def _clipped() -> np.ndarray:
    return np.clip(beats() * 3, -150, 250)


def _noise() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 400, (12, N)).round()


KINDS: dict[str, tuple[Callable[[Path, str], None], Status]] = {
    "no_signal_file": (_no_signal_file, Status.MISSING_SIGNAL),
    "truncated": (_truncated, Status.TRUNCATED),
    "zero_gain": (lambda f, n: write(f, n, beats() / 5, gain="0"), Status.OK),
    "all_invalid": (lambda f, n: write(f, n, np.full((12, N), INVALID)), Status.NON_FINITE),
    "flat": (lambda f, n: write(f, n, np.full((12, N), 17)), Status.FLAT),
    "unknown_leads": (lambda f, n: write(f, n, beats(), leads=tuple(f"X{i}" for i in range(12))), Status.MISSING_LEAD),
    "100_hz": (lambda f, n: write(f, n, beats(100), fs=100), Status.OK),
    "1000_hz": (lambda f, n: write(f, n, beats(1000), fs=1000), Status.OK),
    "5_s": (lambda f, n: write(f, n, beats(seconds=5)), Status.TOO_SHORT),
    "0_samples": (lambda f, n: write(f, n, np.empty((12, 0))), Status.TOO_SHORT),
    "no_header_text": (lambda f, n: (f / f"{n}.hea").write_bytes(b""), Status.UNREADABLE),
    "not_a_header": (lambda f, n: (f / f"{n}.hea").write_bytes(b"\x00\x01PK\x03 garbage\n"), Status.UNREADABLE),
    "not_utf_8": (_not_utf_8, Status.OK),
    "noise": (lambda f, n: write(f, n, _noise()), Status.NOISY),
    "clipped": (lambda f, n: write(f, n, _clipped()), Status.CLIPPED),
    "40_mv": (lambda f, n: write(f, n, beats() * 30), Status.AMPLITUDE),
    "4_hz": (lambda f, n: write(f, n, beats(4, seconds=20), fs=4), Status.SAMPLING_RATE),
}


def write_broken(folder: Path) -> dict[str, Status]:
    """One record of every kind; returns the status that each record_id must get, relative to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, _) in KINDS.items():
        make(folder, name)
    (folder / "a_folder.hea").mkdir()  # named like a header, and no record
    return {name: status for name, (_, status) in KINDS.items()}


def copy_good(data: Path, folder: Path, times: int) -> int:
    """Copies of twelve real ten-second ECGs without a fault, `times` each. Returns how many records there are."""
    names = [f"{i:05d}_hr" for i in _GOOD]
    source = data / "ptbxl-500" / "records500" / "00000"
    for copy in range(times):
        target = folder / f"{PLANTED}{copy:04d}"
        target.mkdir(parents=True)
        for name in names:
            for suffix in (".hea", ".dat"):
                shutil.copyfile(source / (name + suffix), target / (name + suffix))
    return len(names) * times


_GOOD = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
