"""What a job says when a task of it fails: the mend where we know it, else the type and the place, never a record."""

import sys

import pytest
import ray

from anyecg_ray import cluster, spans
from anyecg_ray.config import InputError, JobError
from anyecg_ray.storage_errors import StorageError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
pytestmark = pytest.mark.usefixtures("on_ray")

RECORD = "HIPPO4412"
"""Not PLANTED: the log files of Ray and of its workers, which are no job log, have the whole message."""


def through_ray_data(function):
    list(ray.data.range(1).map_batches(lambda _: function(), batch_size=None).iter_batches())


def through_a_task(function):
    ray.get(ray.remote(function).remote())


def known():
    raise InputError("bundle: is broken")


def of_storage():
    raise StorageError("cannot write to out: disk full")


def of_the_job():
    raise JobError("computes wrongly")


def unforeseen():
    raise ValueError(f"no record {RECORD}/1\nand {RECORD}: more")


def unforeseen_in_ours():
    spans.spans(RECORD, 1.0, 10.0)


@pytest.mark.parametrize("way", [through_ray_data, through_a_task])
@pytest.mark.parametrize(
    ("function", "kind", "told"),
    [
        (known, InputError, "^bundle: is broken$"),
        (of_storage, InputError, "^cannot write to out: disk full$"),
        (of_the_job, JobError, "^computes wrongly$"),
        (unforeseen, JobError, r"^a task failed \(ValueError\); run the same command"),
        (
            unforeseen_in_ours,
            JobError,
            r"^a task failed \(TypeError at anyecg_ray/spans\.py:\d+\); run the same command",
        ),
    ],
)
def test_one_line_without_a_record(way, function, kind, told, capfd):
    with pytest.raises(ray.exceptions.RayError) as failed:
        way(function)
    error = cluster.explained(failed.value)
    with pytest.raises(kind, match=told):
        raise error
    assert RECORD not in str(error) + "".join(capfd.readouterr())
