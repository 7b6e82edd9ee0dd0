"""`hanse model serve`: a real process, asked over HTTP on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from transformers.pytorch_utils import Conv1D

from hanse_client.inference.choices import Candidates, When
from hanse_client.inference.load import open_model, open_store
from hanse_client.inference.predict import ask_all, moment_of, ranked
from hanse_client.inference.quantization import to_int8
from hanse_client.node import Node, list_nodes
from hanse_client.tasks.interest import InterestModel


@pytest.fixture(scope="module")
def service(small_stores, tmp_path_factory):
    """A service over the untrained model of the first small store; yields (address, node)."""
    from hanse_simulations.experiment.prepare import make_nodes
    from hanse_simulations.runs.arm_folder import ArmFolder

    settings, prepared = small_stores
    folder = tmp_path_factory.mktemp("served")
    node = list_nodes(make_nodes(prepared, ArmFolder(folder), settings, salt="test"))[0]
    code = "from hanse_client.model_cli import app; app()"
    words = ["serve", str(prepared.base_model), "--store", str(node), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), Node(node)
        process.terminate()


def post(address: str, body: object, **headers: str):
    headers = {"Content-Type": "application/json"} | headers
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = Request(f"{address}/predict", content, headers)
    try:
        with urlopen(asked) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text


def expected(node: Node, top: int) -> dict[str, list[str]]:
    trained = open_model(node.settings.base_model)
    store = open_store(node.folder, trained)
    everybody = store.histories.active()
    moment = moment_of(store, When.LATEST, None)
    found = ask_all(trained.model, store.histories, everybody, moment)
    lists = ranked(found, top=top, candidates=Candidates.ALL)
    return {
        str(store.histories.customers[index]): [trained.config.classes[i] for i in best]
        for index, best in zip(everybody, lists, strict=True)
    }


def test_answers_are_the_models_whoever_else_asks_at_the_time(service):
    address, node = service
    wanted = expected(node, top=4)
    with urlopen(f"{address}/healthz") as answer:
        assert json.load(answer)["ready"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: post(address, {"users": [n], "top": 4}), wanted))
    for name, (status, answer) in zip(wanted, answers, strict=True):
        assert status == 200
        assert [row["item_id"] for row in answer["predictions"][0]] == wanted[name]
    names = list(wanted)[:3]
    _, together = post(address, {"users": names, "top": 4})
    assert [[row["item_id"] for row in one] for one in together["predictions"]] == [
        wanted[name] for name in names
    ]


def test_a_posted_history_is_answered_as_the_same_customers(service):
    address, node = service
    histories = node.histories
    classes = InterestModel.from_pretrained(node.settings.base_model).config.classes
    visits = []
    for visit in range(histories.visit_offsets[0], histories.visit_offsets[1]):
        pairs = slice(histories.pair_offsets[visit], histories.pair_offsets[visit + 1])
        at = np.datetime64("1970-01-01") + np.timedelta64(
            round(histories.visit_days[visit] * 86_400e6), "us"
        )
        bought = [classes[i] for i in histories.pair_classes[pairs]]
        visits.append({"time": str(at), "classes": bought})
    _, posted = post(address, {"histories": [visits]})
    _, known = post(address, {"users": [str(histories.customers[0])]})
    for one, other in zip(posted["predictions"][0], known["predictions"][0], strict=True):
        assert one["item_id"] == other["item_id"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"users": ["nobody"]}, "unknown-customer"),
        ({"users": []}, "malformed"),
        ({}, "malformed"),
        ({"users": ["a"], "histories": [[]]}, "malformed"),
        ({"histories": [[]]}, "empty-store"),
        ({"histories": [[{"time": "2023-01-05", "classes": ["NONE/SUCH"]}]]}, "unknown-category"),
        ({"histories": [[{"time": "2023-01-05T10:00+01:00", "classes": []}]]}, "malformed"),
        ({"users": ["a"], "more": 1}, "malformed"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(service, body, code):
    status, answer = post(service[0], body)
    assert (status, answer["error"]) == (422, code)


def test_a_question_addressed_elsewhere_is_not_answered(service):
    address, node = service
    name = str(node.histories.customers[0])
    for host in ("shop.example", "shop.example:80", "127.0.0.1.shop.example", "127.0.0.2", ""):
        assert post(address, {"users": [name]}, Host=host)[0] == 421, host
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:8"):
        assert post(address, {"users": [name]}, Host=host)[0] == 200, host
    with pytest.raises(HTTPError, match="421"):
        urlopen(Request(f"{address}/healthz", headers={"Host": "shop.example"}))


def test_what_a_browser_sends_for_a_web_page_is_not_answered(service):
    """A page may post text without asking first, and is named in `Origin` whatever it posts."""
    address, node = service
    body = {"users": [str(node.histories.customers[0])]}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"):
        assert post(address, body, **{"Content-Type": kind})[0] == 415, kind
    for origin in ("https://shop.example", "null", address):
        status, answer = post(address, body, Origin=origin)
        assert (status, answer["error"]) == (403, "web-page")
    assert post(address, body, **{"Content-Type": "application/json; charset=utf-8"})[0] == 200


def test_a_question_beyond_any_is_refused(service):
    status, answer = post(service[0], b"[" * 4_000_001)
    assert (status, answer["error"]) == (413, "too-large")
    for nonsense in (b"\xff", b"[" * 100_000, b'{"users": ' + b"9" * 10_000 + b"}"):
        assert post(service[0], nonsense)[0] == 422


def test_eight_bits_change_a_listening_model_little_and_leave_the_original(small_stores):
    import torch

    _, prepared = small_stores
    model = InterestModel.from_pretrained(prepared.base_model).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    histories = prepared.load()[0]
    moment = float(histories.visit_days.max()) + 1
    small = to_int8(model)
    assert not any(isinstance(layer, Conv1D) for layer in small.modules())
    scores = [ask_all(one, histories, histories.active(), moment).scores for one in (model, small)]
    apart = np.abs(scores[0] - scores[1])
    assert 0 < apart.mean() < 0.1 * scores[0].std()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
