"""The dashboard's JSON keeps to its OpenAPI document, whatever it is asked."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import given
from hypothesis.strategies import SearchStrategy, one_of
from schemathesis import GenerationMode
from schemathesis.schemas import APIOperation

from dashboard import TOKEN, ask, dashboard
from incidents_shown import incident, stream
from judged import Made, assess, baseline_of, columns
from mooring.state.incidents import Incidents, StreamStates
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollouts, new
from mooring.state.state import State
from mooring.ui import openapi
from mooring.ui.pages import ACTIONS, PAGES

DOCUMENT = openapi.document(PAGES, ACTIONS)
INCIDENT = incident(2, 2)
REAL = {
    "model": ["wine"],
    "feature": ["alcohol", "prediction"],
    "number": ["1"],
    "incident": [INCIDENT.id],
}
ANSWERED: Counter[tuple[str, int]] = Counter()


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with the parts of paths that there are: else nearly all answers would be 404."""
    found = copy.deepcopy(document)
    for operations in found["paths"].values():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path" and parameter["name"] in REAL:
                    parameter["schema"] = {"enum": REAL[parameter["name"]]}
    return found


def operations(document: dict[str, Any]) -> pytest.MarkDecorator:
    """Have a test run for each operation of the document, by a name of its own: pytest-xdist wants that."""
    schema = schemathesis.openapi.from_dict(document)
    found = [result.ok() for result in schema.get_all_operations()]
    return pytest.mark.parametrize("operation", found, ids=[operation.label for operation in found])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place: Path = tmp_path_factory.mktemp("site")
    with State(str(place / "state.db")) as state:
        wine = Made(state, "wine", baseline_of(columns(3000)))
        for at, shift in enumerate([0, 0, 3]):
            wine.put(at, shift=shift)
        assess(state, "wine")
        Incidents(state).put(INCIDENT)
        StreamStates(state).put(stream(incident_id=INCIDENT.id, level=2.0))
        Tickets(state).open(
            "wine", Cause(kind="manual"), "asked for", champion="1", directory=str(place), status="approval"
        )
        Rollouts(state).open(new("wine", "2", "1", "challenger"))
    (place / "log").mkdir()
    with dashboard(f"sqlite:///{place / 'state.db'}", log=str(place / "log")) as address:
        yield address


def either(operation: APIOperation) -> SearchStrategy[schemathesis.Case]:
    """Return requests for an operation, as the document wants them and as it does not."""
    return one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))


def validated(case: schemathesis.Case, site: str) -> int:
    """Return the status of an answer that is as the document says."""
    return case.call_and_validate(base_url=site, headers={"Authorization": f"Bearer {TOKEN}"}).status_code


@operations(narrowed(DOCUMENT))
def test_what_is_there_is_answered_as_the_document_says(operation: APIOperation, site: str) -> None:
    @given(either(operation))
    def check(case: schemathesis.Case) -> None:
        names = [
            (name, case.path_parameters[name]) for name in ("feature", "incident") if name in case.path_parameters
        ]
        if any(given not in REAL[name] for name, given in names):
            # Whatever stands in a path is text: a list in the place of a name is only another name.
            assert case.call(base_url=site).status_code in (200, 400, 404)
            return
        ANSWERED[operation.label, validated(case, site)] += 1

    check()


@operations(DOCUMENT)
def test_so_is_whatever_is_asked(operation: APIOperation, site: str) -> None:
    @given(either(operation))
    def check(case: schemathesis.Case) -> None:
        validated(case, site)

    check()


def test_every_page_was_answered() -> None:
    pages = {f"GET {page.api_path}" for page in PAGES if page.name not in ("request", "requests")}
    assert {label for label, status in ANSWERED if status == 200} >= pages


def test_the_document_that_is_served_is_this_one(site: str) -> None:
    assert ask(site, "/api/openapi.json").json == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
