"""What is shown of training while it runs."""

import threading

import pytest
import ray
from tensorboard_events import scalars

from anyecg_ray import board

EPOCH = {"epoch": 0, "loss": 0.5, "score": 0.7, "samples_per_s": 9.0, "lr": 1e-3, "aurocs": {"k": 0.7}, "best": True}


class Notes:
    """A board that answers one call after the other with what is prepared: a state, or an exception."""

    def __init__(self, answers):
        self.answers, self.read = iter(answers), self

    def remote(self):
        return self


@pytest.mark.parametrize(
    ("first", "curves"),
    [(ray.exceptions.GetTimeoutError(), {"loss", "score", "samples_per_s", "lr", "auroc/k"}), (RuntimeError(), set())],
    ids=["a busy machine", "Ray is gone"],
)
def test_a_board_that_answers_late_is_asked_again(monkeypatch, tmp_path, capsys, first, curves):
    stop, notes = threading.Event(), Notes([first, ({}, []), ({}, [EPOCH])])

    def get(_, timeout):
        answer = next(notes.answers)
        if isinstance(answer, Exception):
            raise answer
        if answer == ({}, []):
            stop.set()
        return answer

    monkeypatch.setattr(ray, "get", get)
    board._watch(notes, stop, 1, str(tmp_path))
    assert set(scalars(tmp_path)) == curves
    assert ("epoch 0: loss 0.5000" in capsys.readouterr().out) == bool(curves)
