"""A proxy as one writes it with aiohttp: the peer that most Python services would start from."""

from __future__ import annotations

import sys

from aiohttp import ClientSession, TCPConnector, web

HOP_BY_HOP = {"connection", "keep-alive", "te", "transfer-encoding", "upgrade", "content-length", "host"}


async def start(app: web.Application) -> None:
    app["session"] = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)


async def stop(app: web.Application) -> None:
    await app["session"].close()


async def forward(request: web.Request) -> web.Response:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    body = await request.read()
    url = sys.argv[2] + request.rel_url.raw_path_qs
    async with request.app["session"].request(request.method, url, headers=headers, data=body) as answer:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        return web.Response(status=answer.status, headers=headers, body=await answer.read())


if __name__ == "__main__":
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", forward)
    application.on_startup.append(start)
    application.on_cleanup.append(stop)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
