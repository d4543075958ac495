"""The app without Ray: limits, overload, replacement of a model, and what happens where something fails."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from bad_requests import ENDS_OF_THE_CALENDAR, GOOD

from anyecg_ray import api, example, limits, weights
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.estimating import Predicted, Served
from anyecg_ray.http_problems import Problem, busy
from anyecg_ray.keys import Gate, made
from anyecg_ray.limits import MB, Admission, Limits, Rates
from anyecg_ray.model import Bundle, Card
from anyecg_ray.replicas import Model
from anyecg_ray.request_body import BodyReader
from anyecg_ray.request_metrics import Counts, text

INDICATORS = ["potassium_high", "calcium_value"]


def estimator(seed: int = 0, recipe: str = "ecgfounder-finetune", version: str | None = None) -> Estimator:
    bundle = weights.untrained("tiny", INDICATORS, ["II"], recipe, seed)
    if version:
        bundle = Bundle(bundle.card.model_copy(update={"model_version": version}), bundle.weights)
    return Estimator(bundle, Compute(precision="float32"))


@pytest.fixture(scope="module")
def first():
    return estimator()


def service(predict, card, limits: Limits | None = None, gate: Gate | None = None, counts: Counts | None = None):
    asked = limits or Limits()
    counts = counts or Counts()
    reader = BodyReader(asked, [], Admission(asked), ThreadPoolExecutor(2))

    async def ready():
        return {card.model_id: True}

    async def metrics():
        return text([counts.snapshot()])

    return api.Service(lambda: [Served(card, predict)], reader, gate, counts, ready, metrics)


def answering(model: Estimator):
    async def predict(x, card):
        return Predicted(model.logits(x), None)

    return predict


async def call(
    app, path="/v1/estimates", body=None, headers=(), method="POST", chunks=None, client="127.0.0.1", host=b"localhost",
    parsed=True,
):  # fmt: skip
    """(status, headers, JSON or text, or bytes where it is not to be parsed) of one request, through ASGI alone."""
    path, _, query = path.partition("?")
    raw = json.dumps(GOOD).encode() if body is None else body
    given = [(b"host", host), (b"content-type", b"application/json"), *headers]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "headers": given, "client": (client, 1),
        "server": ("127.0.0.1", 8000), "scheme": "http", "root_path": "",
    }  # fmt: skip
    messages = iter(chunks if chunks is not None else [{"type": "http.request", "body": raw, "more_body": False}])
    sent = []

    async def receive():
        message = next(messages, None)
        if message is None:
            await asyncio.sleep(3600)
        return message

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    content = b"".join(m.get("body", b"") for m in sent[1:])
    told = dict(sent[0]["headers"])
    if not parsed:
        return sent[0]["status"], told, content
    return sent[0]["status"], told, json.loads(content) if b"json" in told[b"content-type"] else content.decode()


def run(app, **options):
    return asyncio.run(call(app, **options))


def test_one_more_request_than_are_taken_on_is_refused_at_once_and_none_is_lost(first):
    async def scene():
        gate = asyncio.Event()

        async def predict(x, card):
            await gate.wait()
            return Predicted(first.logits(x), None)

        app = api.create(service(predict, first.card, Limits(requests=3)))
        working = [asyncio.create_task(call(app)) for _ in range(3)]
        await asyncio.sleep(0.2)
        refused = await call(app)
        healthy = await call(app, path="/healthz", method="GET")
        gate.set()
        return refused, healthy, await asyncio.gather(*working), await call(app)

    refused, healthy, done, after = asyncio.run(scene())
    assert (refused[0], refused[2]["code"]) == (503, "overloaded")
    assert int(refused[1][b"retry-after"]) >= 1
    assert healthy[0] == 200
    assert [d[0] for d in [*done, after]] == [200] * 4
    assert all(d[2]["estimates"] == after[2]["estimates"] for d in done)


def test_a_busy_model_is_told_with_retry_after(first):
    async def predict(x, card):
        raise busy("the model has more to do than it takes on")

    status, headers, told = run(api.create(service(predict, first.card)))
    assert (status, told["code"], headers[b"retry-after"]) == (503, "overloaded", b"1")


def test_a_model_that_does_not_answer_is_not_waited_for_forever(first):
    async def predict(x, card):
        await asyncio.sleep(3600)

    status, headers, told = run(api.create(service(predict, first.card, Limits(timeout=0.2))))
    assert (status, told["code"]) == (503, "overloaded")
    assert b"retry-after" in headers


def test_a_batch_has_one_time_and_says_which_of_it_were_not_reached(first):
    async def predict(x, card):
        asked.append(time.monotonic())
        if len(asked) > 3:
            await asyncio.sleep(3600)
        return Predicted(first.logits(x), None)

    asked: list[float] = []
    app = api.create(service(predict, first.card, Limits(timeout=2)))
    status, _, told = run(app, path="/v1/estimates:batch", body=json.dumps({"ecgs": [GOOD] * 32}).encode())
    ended = time.monotonic()
    assert status == 200
    statuses = [item["status"] for item in told["items"]]
    assert (statuses.count(200), statuses.count(503)) == (3, 29)
    late = [item["problem"] for item in told["items"] if item["status"] == 503]
    assert {(p["code"], p["detail"]) for p in late} == {("overloaded", "there was no answer within 2 s")}
    assert len(asked) <= 3 + api.AT_ONCE
    assert ended - asked[0] < 4  # and not two seconds for each eight


def test_a_body_that_does_not_come_is_not_waited_for_forever(first):
    app = api.create(service(answering(first), first.card, Limits(timeout=0.2)))
    chunks = [{"type": "http.request", "body": b"{", "more_body": True}]
    status, _, told = run(app, chunks=chunks)
    assert (status, told["code"]) == (408, "slow_body")


def test_a_body_without_a_length_is_cut_at_the_limit(first):
    app = api.create(service(answering(first), first.card, Limits(megabytes=1)))
    sent = []

    def chunks():
        for i in range(50):
            sent.append(i)
            yield {"type": "http.request", "body": bytes(100_000), "more_body": i < 49}

    status, _, told = run(app, chunks=chunks())
    assert (status, told["code"]) == (413, "too_large")
    assert len(sent) == 50  # the rest is read and dropped, else its sender would not see the answer


def test_a_body_that_ends_early_is_told(first):
    chunks = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    status, _, told = run(api.create(service(answering(first), first.card)), chunks=chunks)
    assert (status, told["code"]) == (400, "cut_body")


def test_bodies_are_held_up_to_a_limit_over_all_requests():
    async def scene():
        admission = Admission(Limits(megabytes=10, held_megabytes=1))

        async def chunks(n):
            yield bytes(n)

        async with admission.body(chunks(MB - 100), None) as body:
            assert len(body) == admission.held == MB - 100
            with pytest.raises(Problem) as raised:
                async with admission.body(chunks(200), None):
                    pass
            assert raised.value.code == "overloaded"
        assert admission.held == 0

    asyncio.run(scene())


def test_a_key_has_its_rate_and_others_theirs(first):
    (one, kept), (two, other) = made("one"), made("two")
    gate = Gate(None, f"{kept.line()} {other.line()}")
    app = api.create(service(answering(first), first.card, Limits(rate=0.01), gate))
    asked = [run(app, headers=[(b"x-api-key", key.encode())]) for key in (one, one, two)]
    assert [a[0] for a in asked] == [200, 429, 200]
    assert asked[1][2]["code"] == "too_many_requests"
    assert int(asked[1][1][b"retry-after"]) > 50


def test_tokens_come_back_at_the_rate():
    rates = Rates(10.0)
    for _ in range(20):
        rates.take("a", now=0.0)
    for now, ok in ((0.05, False), (0.11, True), (0.12, False)):
        if ok:
            rates.take("a", now=now)
        else:
            with pytest.raises(Problem):
                rates.take("a", now=now)
    rates.take("b", 500, now=0.0)  # a batch larger than a bucket is let through, and paid for
    with pytest.raises(Problem) as raised:
        rates.take("b", now=1.0)
    assert 40 <= int(raised.value.headers["Retry-After"]) <= 50
    Rates(0).take("a", 10**9)


@pytest.mark.parametrize("n", [16, 20, 21, 32, 500])
def test_a_batch_of_any_size_passes_a_rested_key_and_comes_back_when_it_was_told_to(n):
    rates, now = Rates(10.0), 0.0
    rates.take("a", now=now)  # the request, and then its ECGs
    rates.take("a", n, now=now, paid=1)
    for _ in range(10):
        rates.take("b", now=now)
    rates.take("b", now=now)
    with pytest.raises(Problem) as raised:
        rates.take("b", n, now=now, paid=1)
    now += int(raised.value.headers["Retry-After"])
    rates.take("b", now=now)
    rates.take("b", n, now=now, paid=1)


def test_a_batch_larger_than_two_seconds_rate_is_answered_and_paid_for(first):
    app = api.create(service(answering(first), first.card, Limits(rate=0.1)))
    status, _, told = run(app, path="/v1/estimates:batch", body=json.dumps({"ecgs": [GOOD] * 32}).encode())
    assert (status, [item["status"] for item in told["items"]]) == (200, [200] * 32)
    status, headers, _ = run(app)
    assert status == 429
    assert 200 < int(headers[b"retry-after"]) <= 320  # a debt of 31, and one more


@pytest.mark.parametrize("kind", [b"application/json", b"application/fhir+json"])
def test_a_start_at_the_ends_of_the_calendar_is_told(first, kind):
    app = api.create(service(answering(first), first.card))

    def answered(start):
        return run(app, body=json.dumps({**GOOD, "start_time": start}).encode(), headers=[(b"accept", kind)])

    for start in ENDS_OF_THE_CALENDAR:
        status, _, told = answered(start)
        assert (status, told.get("code"), told.get("field")) == (422, "invalid_field", "start_time"), start
    for start in ("0001-01-02T00:00:00+00:00", "9999-12-29T23:00:00-00:59", "2026-11-26T01:02:03", None):
        assert answered(start)[0] == 200, start


def test_a_start_without_an_offset_is_in_utc(first):
    app = api.create(service(answering(first), first.card))
    for start in ("2026-11-26T01:02:03", "2026-11-26T02:02:03+01:00"):
        body = json.dumps({**GOOD, "start_time": start}).encode()
        assert run(app, path="/v1/estimates?strip=true", body=body)[2]["strip"]["start_time"] == "2026-11-26T01:02:03Z"


def test_without_keys_only_this_machine_is_answered(first):
    app = api.create(service(answering(first), first.card))
    assert run(app, client="192.0.2.7")[2]["code"] == "not_local"
    assert run(app, client="::1")[0] == 200
    for host, status in ((b"localhost:8000", 200), (b"[::1]:8000", 200), (b"127.0.0.1", 200), (b"evil.example", 403),
                         (b"evil.example:8000", 403), (b"localhost.evil.example", 403), (b"", 403)):  # fmt: skip
        assert run(app, host=host)[0] == status, host


def test_a_defect_is_told_and_logged_without_what_it_was_about(first, caplog):
    async def predict(x, card):
        raise ValueError("patient Doe-Jane")

    with caplog.at_level("INFO", "anyecg.requests"):
        status, _, told = run(api.create(service(predict, first.card)))
    assert (status, told["code"]) == (500, "internal")
    assert "Doe" not in json.dumps(told)
    assert "Doe" not in caplog.text
    assert '"defect": "ValueError"' in caplog.text
    assert "test_api.py" in caplog.text


def test_an_answer_bears_the_version_that_computed_it(first):
    """In the middle of a roll-out the model behind the name may be the next one already."""
    second = estimator(seed=1, version="2")
    assert second.card.preprocess_fingerprint == first.card.preprocess_fingerprint

    async def predict(x, card):
        return Predicted(second.logits(x), second.card)

    got = run(api.create(service(predict, first.card)))[2]
    alone = run(api.create(service(answering(second), second.card)))[2]
    assert got["model"] == alone["model"]
    assert got["model"]["version"] == "2"
    assert got["estimates"] == alone["estimates"]


def test_a_version_with_other_preprocessing_gets_its_own_windows(first):
    other = estimator(seed=1, recipe="ecgfounder-zscore", version="2")
    assert other.card.preprocess_fingerprint != first.card.preprocess_fingerprint

    async def predict(x, card):
        if card.weights_sha256 != other.card.weights_sha256:
            return Predicted(None, other.card)
        return Predicted(other.logits(x), None)

    got = run(api.create(service(predict, first.card)))[2]
    alone = run(api.create(service(answering(other), other.card)))[2]
    assert got["model"]["version"] == "2"
    assert got["estimates"] == alone["estimates"]


def test_the_same_weights_with_other_preprocessing_are_another_version(first):
    other = estimator(recipe="ecgfounder-zscore", version="2")
    assert other.card.weights_sha256 == first.card.weights_sha256
    replica = Model(Compute(), 64)
    replica._held = other

    async def predict(x, card):
        got = await replica(x, card.weights_sha256, card.preprocess_fingerprint)
        return Predicted(got.logits, got.card and Card.model_validate_json(got.card))

    got = run(api.create(service(predict, first.card)))[2]
    alone = run(api.create(service(answering(other), other.card)))[2]
    assert got["model"]["version"] == "2"
    assert got["estimates"] == alone["estimates"]


def test_a_model_that_reads_nothing_and_does_not_say_why_is_a_503(first):
    async def predict(x, card):
        return Predicted(None, None)

    status, _, told = run(api.create(service(predict, first.card)))
    assert (status, told["code"]) == (503, "overloaded")


def test_the_parts_of_a_long_ecg_are_never_of_two_versions(first):
    """One chunk from the old, one from the new: both are asked again."""
    second = estimator(seed=1, version="2")
    asked = []

    async def predict(x, card):
        asked.append(len(x))
        if len(asked) == 1:
            return Predicted(first.logits(x), None)
        return Predicted(second.logits(x), None if card.model_version == "2" else second.card)

    long = {**GOOD, "signals": [GOOD["signals"][0] * 40]}
    got = run(api.create(service(predict, first.card)), body=json.dumps(long).encode())[2]
    alone = run(api.create(service(answering(second), second.card)), body=json.dumps(long).encode())[2]
    assert asked == [32, 8, 32, 8]
    assert got["model"]["version"] == "2"
    assert got["n_windows"] == 40
    assert got["estimates"] == alone["estimates"]


def test_two_versions_that_never_agree_are_a_503(first):
    seconds = [
        estimator(seed=s, recipe=r, version=str(s)) for s, r in ((1, "ecgfounder-zscore"), (2, "ecgfounder-finetune"))
    ]

    async def predict(x, card):
        return Predicted(None, seconds[0].card if card.model_version != "1" else seconds[1].card)

    status, _, told = run(api.create(service(predict, first.card)))
    assert (status, told["code"]) == (503, "overloaded")


def test_the_counts_of_several_processes_are_added(first):
    counts = [Counts(), Counts()]
    for c in counts:
        app = api.create(service(answering(first), first.card, counts=c))
        run(app)
        run(app, body=b"{}")
    lines = text([c.snapshot() for c in counts]).decode().splitlines()
    found = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    of = 'method="POST",route="/v1/estimates",status='
    assert found[f'anyecg_requests_total{{code="",{of}"200"}}'] == 2
    assert found[f'anyecg_requests_total{{code="missing_field",{of}"422"}}'] == 2
    assert found['anyecg_request_seconds_count{route="/v1/estimates"}'] == 4
    assert found["anyecg_served_windows_total"] == 2
    card = first.card
    named = f'model="{card.model_id}",status="ok",version="{card.model_version}"'
    assert found[f"anyecg_ecgs_total{{{named}}}"] == 2


def test_a_model_that_is_not_ready_is_told(first):
    async def not_ready():
        return {"a@1": True, "b@1": False}

    app = api.create(replace(service(answering(first), first.card), ready=not_ready))
    status, _, told = run(app, path="/readyz", method="GET")
    assert (status, told) == (503, {"status": "not ready", "detail": {"a@1": True, "b@1": False}})


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/readyz", 200), ("/", 200), ("/docs", 200), ("/v1/models", 200), ("/metrics", 200),
     ("/static/page.css", 200), ("/openapi.json", 200), ("/v1/estimates", 405), ("/nothing", 404)],
)  # fmt: skip
def test_head_is_answered_as_get_without_the_body(first, path, status):
    counts = Counts()
    app = api.create(service(answering(first), first.card, counts=counts))
    got, headers, body = run(app, path=path, method="HEAD", parsed=False)
    assert (got, body) == (status, b"")
    assert int(headers[b"content-length"]) > 0
    assert b'method="HEAD"' in text([counts.snapshot()])
    assert run(app, path=path, method="GET", parsed=False)[2]


def test_the_example_is_the_same_as_json_and_as_wfdb():
    given = json.loads(example.as_json())
    adu = np.frombuffer(example.samples(), "<i2").reshape(-1, 12).T
    np.testing.assert_allclose(np.array(given["signals"]), adu / example.GAIN, atol=1e-9)


def test_the_limits_say_what_they_are():
    told = limits.too_large(Limits(megabytes=2)).as_json("x")
    assert told["detail"] == "the body is larger than 2 MB"
    assert told["instance"] == "x"
    with pytest.raises(ValueError, match="less than or equal to 86400"):
        Limits(seconds=100_000)
