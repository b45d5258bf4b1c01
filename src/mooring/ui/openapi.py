"""The OpenAPI document, made from the pages and actions themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, get_type_hints

import msgspec

from mooring import __version__
from mooring.ui.responses import ActDone, Problem, Reason
from mooring.ui.routing import Action, Page, Query, parts

_PROBLEMS = {
    "400": "The address or the body asks for something invalid.",
    "401": "The token is missing or wrong.",
    "403": "Not by this name, not without a token that the dashboard was started with, or not from that page.",
    "404": "It is not there.",
    "409": "It can't be done any more, or not now.",
    "429": "Too many wrong tokens.",
    "503": "State or log can't be read now.",
}
_OF_PAGES = ("400", "401", "403", "404", "429", "503")


@cache
def document(pages: Sequence[Page], actions: Sequence[Action]) -> dict[str, Any]:
    """Return the document, of OpenAPI 3.1."""
    kinds = [*dict.fromkeys(page.returns for page in pages), ActDone, Reason, Problem]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for page in pages:
        paths[page.api_path] = {
            "get": {
                "operationId": page.name,
                "summary": page.summary,
                "parameters": [*_path_parameters(page.path), *_query_parameters(page.query)],
                "responses": _responses(of[page.returns], _OF_PAGES, of[Problem]),
            }
        }
    for action in actions:
        paths[action.api_path] = {
            "post": {
                "operationId": action.name,
                "summary": action.summary,
                "parameters": _path_parameters(action.path),
                "requestBody": {"content": {"application/json": {"schema": of[Reason]}}},
                "responses": _responses(of[ActDone], tuple(_PROBLEMS), of[Problem]),
                "security": [{"token": []}],
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mooring's dashboard", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _path_parameters(path: str) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": text} for name in parts(path)]


def _query_parameters(query: type[Query]) -> list[dict[str, Any]]:
    hints = get_type_hints(query, include_extras=True)
    found = []
    for field in msgspec.structs.fields(query):
        schema = _without_null(msgspec.json.schema(hints[field.name]))
        described = {"description": schema.pop("description")} if "description" in schema else {}
        found.append(
            {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema, **described}
        )
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what stands in an address, where nothing is said by leaving it out."""
    said = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
    schema.pop("default", None)
    return {**schema, **said[0]} if len(said) == 1 else {**schema, "anyOf": said} if said else schema


def _responses(schema: dict[str, Any], problems: Sequence[str], problem: dict[str, Any]) -> dict[str, Any]:
    def answer(text: str, of: dict[str, Any]) -> dict[str, Any]:
        return {"description": text, "content": {"application/json": {"schema": of}}}

    return {"200": answer("As asked.", schema), **{one: answer(_PROBLEMS[one], problem) for one in problems}}
