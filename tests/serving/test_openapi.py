"""The OpenAPI document, and what a fuzzer that reads it gets: never a failure of the server."""

import sys
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from known_depth import Average

from steadydepth.inference.predictor import Predictor
from steadydepth.serving.app import create_app
from steadydepth.serving.settings import Limits, Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    import schemathesis


examples = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    limits = Limits(requests_s=1e6, requests=4)
    # The name by which the fuzzer calls it. Its jobs wait: nothing takes them up before the app is run.
    folder = None if sys.platform == "win32" else tmp_path_factory.mktemp("server")  # a server does not train there
    made = create_app(Settings(model=Predictor(Average()), limits=limits, names=("testserver",), data=folder))
    yield made
    if folder is not None:
        made.state.jobs.stop()


@pytest.mark.filterwarnings("ignore")
def test_no_request_makes_the_server_fail(app):
    """Some requests that fit the document, and some that do not, to every operation."""
    statuses: dict[str, list[int]] = {}
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        operation = found.ok()

        def call(case):
            answer = case.call()
            statuses.setdefault(f"{case.method.upper()} {case.operation.path}", []).append(answer.status_code)
            assert answer.status_code < 500, answer.content
            assert b"Traceback" not in answer.content

        for mode in schemathesis.GenerationMode:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                examples(given(strategy)(call))()
            except Unsatisfiable:  # nothing can be wrong with an operation that takes nothing
                assert mode.is_negative
    assert len(statuses) >= 20
    assert {201, 422} <= set(statuses["POST /v1/uploads"])
    assert 200 in statuses["GET /v1/models"]
    assert {415, 422} & set(statuses["POST /v1/depth"])
    assert {404, 422} & set(statuses["PUT /v1/models/current"])


def test_every_operation_is_explained_with_an_example(app):
    document = app.openapi()
    paths = document["paths"]
    assert {"/v1/depth", "/v1/models", "/v1/models/current", "/healthz", "/readyz", "/metrics"} <= set(paths)
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
    body = paths["/v1/depth"]["post"]["requestBody"]["content"]
    assert set(body) == {"image/jpeg", "image/png", "image/webp"}
    assert document["components"]["schemas"]["ModelList"]["example"]["claims"] == "metric"
    assert document["components"]["schemas"]["Choice"]["example"] == {"model": "stabilised"}
