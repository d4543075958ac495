"""The endpoint's own app in this process, without Ray: all of it is real but the network, whose outputs are given.

So the figures on the page can be computed by hand, and the server can be told to be busy.
"""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import uvicorn

from anyecg_ray import api, weights
from anyecg_ray.estimating import Predicted, Served
from anyecg_ray.http_problems import busy
from anyecg_ray.keys import Gate
from anyecg_ray.limits import Admission, Limits
from anyecg_ray.model import Calibration, Card
from anyecg_ray.request_body import BodyReader
from anyecg_ray.request_metrics import Counts

CALIBRATED = Calibration(method="platt")

INDICATORS = {
    # key: (logit, or mean and log variance; what the card says of it)
    "potassium_high": (
        (1.6,),
        {
            "threshold": 0.3,
            "calibration": CALIBRATED,
            "tier": "strong",
            "auroc": 0.861,
            "auroc_low": 0.812,
            "auroc_high": 0.899,
        },
    ),
    "potassium_low": ((-3.0,), {"threshold": 0.2, "calibration": CALIBRATED, "tier": "moderate", "auroc": 0.62}),
    "calcium_low": ((-0.4,), {"threshold": 0.35, "calibration": CALIBRATED, "tier": "moderate", "auroc": 0.58}),
    "creatinine_high": ((0.9,), {"tier": "strong", "auroc": 0.74}),
    "hemoglobin_low": (
        (-1.0,),
        {
            "threshold": 0.4,
            "calibration": CALIBRATED,
            "tier": "limited",
            "auroc": 0.51,
            "auroc_low": 0.463,
            "auroc_high": 0.558,
        },
    ),
    "nt_probnp_high": ((3.1,), {"threshold": 0.5, "calibration": CALIBRATED}),
    "wbc_high": ((-1.3,), {"threshold": 0.25, "calibration": CALIBRATED, "tier": "limited", "auroc": 0.53}),
    "potassium_value": ((0.5, -0.8), {"offset": 4.2, "scale": 0.6}),
    "wbc_value": ((0.2, 0.1), {"offset": 9.0, "scale": 4.0}),
}


@dataclass
class Server:
    """Where it is, and how it is to behave."""

    url: str
    busy: bool = False
    asked: list[str] = field(default_factory=list)
    """The models that were asked, in order."""


def cards() -> list[Card]:
    """Two models: one that looks trained and reads lead II, and one of random weights that reads all twelve leads."""
    made = weights.untrained("tiny", list(INDICATORS), ["II"], "ecgfounder-finetune", 0).card
    told = [i.model_copy(update=INDICATORS[i.key][1]) for i in made.indicators]
    named = {"model_id": "emergency-labs", "model_version": "3", "trained": True, "indicators": told}
    twelve = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    return [
        made.model_copy(update=named),
        weights.untrained("tiny", ["calcium_low"], twelve, "ecgfounder-finetune", 1).card,
    ]


@contextmanager
def serving(gate: Gate | None = None, limits: Limits | None = None) -> Iterator[Server]:
    """The app on a free port for the length of a block."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = Server(f"http://127.0.0.1:{bound.getsockname()[1]}")

    def model(card: Card) -> Served:
        row = np.concatenate([INDICATORS[i.key][0] for i in card.indicators]).astype(np.float32)

        async def predict(x: np.ndarray, _: Card) -> Predicted:
            if server.busy:
                raise busy("the model has more to do than it takes on", 2)
            server.asked.append(card.model_id)
            return Predicted(np.tile(row, (len(x), 1)), None)

        return Served(card, predict)

    models, asked = [model(card) for card in cards()], limits or Limits()

    async def ready() -> dict[str, bool]:
        return {}

    async def metrics() -> bytes:
        return b""

    reader = BodyReader(asked, [], Admission(asked), ThreadPoolExecutor(2))
    app = api.create(api.Service(lambda: models, reader, gate, Counts(), ready, metrics))
    run = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=run.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not run.started:
        time.sleep(0.01)
    try:
        yield server
    finally:
        run.should_exit = True
        thread.join()
