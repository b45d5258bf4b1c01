"""The model servers that others run, as `--upstream` and the admin port name them, and the way to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from mooring.capture.proxy.address import of_url
from mooring.capture.proxy.backend import Backend

if TYPE_CHECKING:
    from mooring.capture.proxy.context import Context

Variant = Literal["champion", "canary", "shadow"]
_NAMED = re.compile(r"(?P<version>[^:=/]*)(?::(?P<weight>[0-9]+(?:\.[0-9]+)?))?=(?P<url>https?://.*)")


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model server that others run, as `--upstream` or the admin port names it.

    `share` is that of the requests which a canary answers, or of which a shadow gets a copy; the champion answers
    what is left.
    """

    url: str
    version: str | None = None
    variant: Variant = "champion"
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0


def parse_upstreams(given: Sequence[str], version: str | None = None) -> list[Upstream]:
    """Return the servers that `--upstream` names: one by its URL, or several as VERSION:WEIGHT=URL.

    The first is the champion; weights are relative, and 1 where none is given. `version` is that of a server that
    names none. Raises ValueError where they are invalid.

    >>> [(one.version, one.variant, one.share) for one in parse_upstreams(["3:19=http://a:1", "4=http://b:1"])]
    [('3', 'champion', 1.0), ('4', 'canary', 0.05)]
    """
    named = [_NAMED.fullmatch(text) for text in given]
    if len(given) > 1 and not all(named):
        raise ValueError("of several upstreams each needs its version: --upstream 3:95=http://localhost:5002")
    urls = [found["url"] if found else text for found, text in zip(named, given, strict=True)]
    versions = [(found["version"] or None) if found else version for found in named]
    weights = [float(found["weight"] or 1) if found else 1.0 for found in named]
    for url in urls:
        of_url(url)
    if len(set(versions)) < len(versions):
        raise ValueError("two upstreams have the same version: requests are divided between versions")
    total = sum(weights)
    if total <= 0 and len(weights) > 1:
        raise ValueError("all upstreams have the weight 0: nobody would answer")
    return [
        Upstream(url, version) if at == 0 else Upstream(url, version, "canary", weight / total)
        for at, (url, version, weight) in enumerate(zip(urls, versions, weights, strict=True))
    ]


def check_upstreams(upstreams: Sequence[Upstream]) -> None:
    """Raise ValueError where they are invalid."""
    for one in upstreams:
        of_url(one.url)
    variants = [one.variant for one in upstreams]
    if variants.count("champion") != 1 or variants.count("shadow") > 1:
        raise ValueError("there must be one champion, and at most one shadow")
    if len({one.version for one in upstreams}) < len(upstreams):
        raise ValueError("each upstream needs a version of its own")
    if sum(one.share for one in upstreams if one.variant == "canary") > 1 + 1e-9:
        raise ValueError("the shares of the canaries add up to more than 1")


def make_backends(context: Context, upstreams: Sequence[Upstream], known: Sequence[Backend] = ()) -> list[Backend]:
    """Return a backend for each upstream; one of `known` where that is the same server and version."""
    there = {(backend.version, backend.addresses[0]): backend for backend in known if backend.up}
    return [
        there.get((one.version, of_url(one.url))) or Backend(context, one.version, [of_url(one.url)])
        for one in upstreams
    ]


def route(context: Context, upstreams: Sequence[Upstream]) -> None:
    """Have requests go to these servers, as the upstreams say."""
    before = [target for target in context.routes.targets if isinstance(target, Backend)]
    backends = make_backends(context, upstreams, before)
    of = list(zip(upstreams, backends, strict=True))
    context.routes.set(
        next(backend for one, backend in of if one.variant == "champion"),
        [(one.share, backend) for one, backend in of if one.variant == "canary"],
        next(((one.share, backend) for one, backend in of if one.variant == "shadow"), None),
    )
    for backend in before:
        if backend not in backends:
            backend.close()
