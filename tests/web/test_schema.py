"""Schemathesis against the server's own OpenAPI document: whatever is sent, what comes back is as documented."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.support.web_server import Running, asking, data_url, get, picture

load_all_checks()
# Data of the right types may still be refused: a URL that leads to no picture, a model that is not here.
EXCLUDED = [CHECKS.get_one("positive_data_acceptance")]
# A form has no types: a list of one string is sent as that string, which may be what is asked for.
EXCLUDED_OF_FORMS = [*EXCLUDED, CHECKS.get_one("negative_data_rejection")]
BOUNDED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


PATHS = {
    "/v1/models": "GET",
    "/v1/models/{model}": "GET",
    "/v1/chat/completions": "POST",
    "/v1/responses": "POST",
    "/v1/caption": "POST",
    "/v1/picture": "POST",
    "/api/chat": "POST",
    "/api/generate": "POST",
    "/api/show": "POST",
    "/api/tags": "GET",
    "/api/ps": "GET",
    "/api/version": "GET",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}


@pytest.fixture(scope="module")
def api(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, GenerationMode.POSITIVE) for path in PATHS]
    + [(path, GenerationMode.NEGATIVE) for path, method in PATHS.items() if method == "POST"],
)
def test_responses_follow_the_openapi_document(api: Any, path: str, mode: GenerationMode) -> None:
    """Requests as the document has them, and requests that it forbids."""
    operation = api[path][PATHS[path]]

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        is_form = case.media_type == "multipart/form-data"
        case.call_and_validate(excluded_checks=EXCLUDED_OF_FORMS if is_form else EXCLUDED, timeout=60)

    check()


def test_settings_of_every_kind_with_a_picture(api: Any, server: Running) -> None:
    """Requests as they come, but about a model and a picture that exist: most are answered."""
    answered = 0

    @BOUNDED
    @given(case=api["/v1/chat/completions"]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Any) -> None:
        nonlocal answered
        case.body["model"] = server.model
        case.body["messages"] = asking("what is this?", data_url(picture(1)))
        case.body["max_tokens"] = 3
        case.body.pop("max_completion_tokens", None)
        response = case.call_and_validate(excluded_checks=EXCLUDED, timeout=60)
        answered += response.status_code == 200

    check()
    assert answered > 2


def test_the_openapi_document_lists_every_route(server: Running) -> None:
    document = get(f"{server.url}/openapi.json").json()
    assert set(document["paths"]) == set(PATHS)
    assert "422" not in str(document)
    caption = document["paths"]["/v1/caption"]["post"]["requestBody"]["content"]
    assert set(caption) == {"application/json", "multipart/form-data"}
