"""ECGFounder's scoring as its authors do it: wfdb, scipy lead by lead, eager float32. Slow, and independent of ours."""

from pathlib import Path

import numpy as np
import torch
import wfdb
from golden_rule import rule_state

from anyecg_ray.bench_ecgfounder import filter_bandpass
from anyecg_ray.net1d import Net1D
from anyecg_ray.net1d_sizes import Sizes

ORDER = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")


def probabilities(archive: Path, records: dict[str, list[float]], leads: tuple[str, ...]) -> dict[str, np.ndarray]:
    """(150,) by record, of the mean logit over its windows, with the golden rule's weights.

    records: by name the seconds at which its windows start. Those of 500 Hz alone.
    """
    net = Net1D(Sizes(in_channels=len(leads)), 150)
    net.load_state_dict(rule_state(len(leads)), strict=True)
    return {name: _score(net.eval(), archive / name, starts, leads) for name, starts in records.items()}


def _score(net: Net1D, record: Path, starts: list[float], leads: tuple[str, ...]) -> np.ndarray:
    read = wfdb.rdrecord(str(record))
    names = [name.upper() for name in read.sig_name]
    signal = read.p_signal.T[[names.index(lead.upper()) for lead in leads]]
    windows = [normalised(signal[:, round(s * 500) : round(s * 500) + 5000]) for s in starts]
    with torch.inference_mode():
        return torch.sigmoid(net(torch.from_numpy(np.stack(windows))).mean(dim=0)).numpy()


def normalised(window: np.ndarray) -> np.ndarray:
    """The fine-tuning preprocessing of (leads, 5000) millivolts at 500 Hz."""
    x = filter_bandpass(window, 500)
    return ((x - x.mean()) / (x.std() + 1e-8)).astype(np.float32)
