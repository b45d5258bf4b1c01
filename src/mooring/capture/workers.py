"""`mooring proxy`: one process or several that share the port, with an admin port and the drain beside them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.capture import form
from mooring.capture.admin.app import Admin, Upstreams
from mooring.capture.admin.labels import LabelIntake
from mooring.capture.drainer import Drainer
from mooring.capture.proxy import file_watch
from mooring.capture.proxy.limits import raise_file_limit
from mooring.capture.proxy.listening import BACKLOG, bind
from mooring.capture.proxy.routes import Upstream, parse_upstreams, route
from mooring.capture.proxy.security import Security
from mooring.capture.proxy.server import Proxy, serve
from mooring.capture.proxy.stats import Stats
from mooring.capture.proxy.tasks import first_of
from mooring.capture.proxy.version_finder import Question, VersionFinder
from mooring.capture.recorder import Recorder
from mooring.exchange import Ledger
from mooring.spool import last_ledger

if TYPE_CHECKING:
    from mooring.settings import FrontSettings, ProxySettings

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 0.25
_RESTART_SECONDS = 1.0
_TELL_SECONDS = 5.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(settings: ProxySettings, question: Question | None = None) -> None:
    """Run the proxy until SIGTERM or SIGINT.

    `question` asks for the version of the model, where that is not known. Clients can connect at once; for some
    seconds their requests wait for it, so that the log names it from the first one on.

    Raises CantListen where the address can't be listened on, ValueError for invalid settings.
    """
    upstreams = parse_upstreams(settings.upstream, settings.model_version)
    raise_file_limit(settings)
    security = Security(settings)
    if settings.workers == 1:
        run_loop(_single(settings, upstreams, security, question))
    else:
        run_loop(_several(settings, upstreams, security, question))


async def _single(
    settings: ProxySettings, upstreams: list[Upstream], security: Security, question: Question | None
) -> None:
    """Serve in this process."""
    loop = asyncio.get_running_loop()
    proxy = Proxy(settings, Recorder(settings), loop, security)
    route(proxy.context, upstreams)
    listening = bind(settings)

    async def snapshot() -> Stats:
        return proxy.stats()

    labels = LabelIntake(settings)
    changing = Upstreams(upstreams, lambda found: route(proxy.context, found))
    admin = await open_admin(settings, security, Admin(settings.spool_path, snapshot, labels, changing))
    stop = stop_on_signals(loop)
    drainer = Drainer(settings)
    looking = loop.create_task(look_after(drainer, labels, security))
    listening.listen(BACKLOG)  # before it is said
    announce(settings, security, listening, admin, ", ".join(settings.upstream))
    finder = find_version(question, changing)
    try:
        if finder is not None:
            await finder.wait(stop)
        await serve(proxy, listening, stop)
    finally:
        looking.cancel()
        if finder is not None:
            await finder.close()
        if admin is not None:
            admin.close()
        labels.close()
    logger.info("%s", proxy.recorder.ledger)
    await last_drain(settings, drainer)


async def _several(
    settings: ProxySettings, upstreams: list[Upstream], security: Security, question: Question | None
) -> None:
    """Serve in worker processes, and look after them."""
    loop = asyncio.get_running_loop()
    Recorder.check(settings)
    reserved = bind(settings, shared=True)
    settings = msgspec.structs.replace(settings, port=reserved.getsockname()[1])
    workers = [Worker(settings, upstreams, security) for _ in range(settings.workers)]

    async def snapshot() -> Stats:
        found = await asyncio.gather(*(worker.stats() for worker in workers))
        total = sum(found[1:], found[0])
        total.workers = settings.workers
        return total

    def set_upstreams(found: list[Upstream]) -> None:
        for worker in workers:
            worker.set_upstreams(found)

    labels = LabelIntake(settings)
    changing = Upstreams(upstreams, set_upstreams)
    admin = await open_admin(settings, security, Admin(settings.spool_path, snapshot, labels, changing))
    stop = stop_on_signals(loop)
    drainer = Drainer(settings)
    finder = find_version(question, changing)
    for worker in workers:
        worker.held = finder is not None
        worker.start()
    await snapshot()  # one that answers listens
    looking = loop.create_task(look_after(drainer, labels, security, workers))
    announce(settings, security, reserved, admin, ", ".join(settings.upstream))
    if finder is not None:
        await finder.wait(stop)
        for worker in workers:
            worker.release()
    await stop.wait()

    looking.cancel()
    if finder is not None:
        await finder.close()
    await asyncio.gather(*(worker.end(settings.drain_timeout + 5.0) for worker in workers))
    if admin is not None:
        admin.close()
    labels.close()
    logger.info("%s", (await snapshot()).since_start)
    await last_drain(settings, drainer)


class Worker:
    """A forked proxy process, and the socket over which it is asked for its counts. It ends when this one does."""

    def __init__(self, settings: ProxySettings, upstreams: list[Upstream], security: Security) -> None:
        self._settings = settings
        self._upstreams = upstreams
        self._security = security
        self.held = False
        """Whether the process answers nobody yet: clients that come wait."""
        self._pid = 0
        self._started = 0.0
        self._writer = ""
        self._last = Stats()
        self._past = Stats(workers=0)
        self._lock = asyncio.Lock()

    def start(self) -> None:
        """Fork the process."""
        ours, theirs = socket.socketpair()
        self._started = time.monotonic()
        # A signal that comes before the process has handlers of its own must wait for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _run_worker(self._settings, self._upstreams, self._security, theirs, self.held)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        theirs.close()
        ours.setblocking(False)
        self._control = ours

    def tell(self, what: str, value: str = "") -> None:
        """Send the process a message."""
        try:
            self._control.settimeout(_TELL_SECONDS)  # a long message may have to wait for its reader
            self._control.sendall(msgspec.json.encode([what, value]) + b"\n")
            self._control.setblocking(False)
        except OSError as error:
            logger.warning("a worker does not listen: %s", error)

    def set_upstreams(self, upstreams: list[Upstream]) -> None:
        """Have the process, and those that follow it, send requests to these servers."""
        self._upstreams = upstreams
        if self._pid:
            self.tell("upstreams", msgspec.json.encode(upstreams).decode())

    def release(self) -> None:
        """Have the process answer its clients."""
        self.held = False
        if self._pid:
            self.tell("release")

    async def stats(self) -> Stats:
        """Return what the process has counted, and those before it that ended."""
        async with self._lock:
            if self._pid:
                try:
                    with suppress(BlockingIOError):  # an answer that came too late the last time
                        self._control.recv(65536)
                    self.tell("stats")
                    self._writer, self._last = await self._hear(2.0)
                except (OSError, TimeoutError, msgspec.MsgspecError):
                    self._last.ready = self._last.up = 0
            return self._last + self._past

    async def _hear(self, seconds: float, last: bool = False) -> tuple[str, Stats]:
        """Return the writer of the process and its counts; `last` means those that it ends with."""
        loop = asyncio.get_running_loop()
        data = b""
        async with asyncio.timeout(seconds):
            while last or not data.endswith(b"\n"):
                piece = await loop.sock_recv(self._control, 65536)
                if not piece:
                    if last:
                        break
                    raise ConnectionResetError
                data += piece
        return msgspec.json.decode(data.rpartition(b"\n")[0].rpartition(b"\n")[2], type=tuple[str, Stats])

    def look(self) -> None:
        """Start the process anew if it has ended."""
        if not self._pid:
            if time.monotonic() - self._started > _RESTART_SECONDS:
                self.start()
            return
        if self._lock.locked():
            return  # somebody listens to it
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            logger.warning("worker %d ended with %d, and is started anew", pid, os.waitstatus_to_exitcode(status))
            self._gone()

    def _gone(self) -> None:
        self._pid = 0
        self._control.close()
        # What it had in flight is lost. Its spool knows more than it has told.
        if self._writer:
            ledger = last_ledger(self._settings.spool_path / self._writer)
            if ledger is None or ledger.seen < self._last.ledger.seen:
                ledger = self._last.ledger
            self._past.ended[self._writer] = ledger.ended()
        self._last.ledger = Ledger()
        self._last.clients = self._last.upstreams = self._last.ready = self._last.up = self._last.workers = 0
        self._past, self._last, self._writer = self._past + self._last, Stats(workers=0), ""

    async def end(self, seconds: float) -> None:
        """Stop the process in order, and kill it where it takes longer. Its last words are its counts."""
        if not self._pid:
            return
        os.kill(self._pid, signal.SIGTERM)
        async with self._lock:
            try:
                self._writer, self._last = await self._hear(seconds, last=True)
            except (OSError, TimeoutError, msgspec.MsgspecError):
                os.kill(self._pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, self._pid, 0)
            self._gone()


def _run_worker(
    settings: ProxySettings, upstreams: list[Upstream], security: Security, control: socket.socket, held: bool
) -> None:
    """Be a worker; never returns."""
    code = 1
    file_watch.logger.disabled = True  # the process that looks after the workers tells of files
    try:
        run_loop(_work(settings, upstreams, security, control, held))
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


async def _work(
    settings: ProxySettings, upstreams: list[Upstream], security: Security, control: socket.socket, held: bool
) -> None:
    loop = asyncio.get_running_loop()
    proxy = Proxy(settings, Recorder(settings), loop, security)
    route(proxy.context, upstreams)
    stop = stop_on_signals(loop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def counts() -> bytes:
        return msgspec.json.encode([proxy.recorder.writer, proxy.stats()]) + b"\n"

    def answer() -> None:
        try:
            came = control.recv(65536)
        except ConnectionResetError:  # it went with something unread
            came = b""
        if not came:  # the parent has gone
            loop.remove_reader(control)
            stop.set()
        unread.extend(came)
        lines = unread.split(b"\n")
        unread[:] = lines.pop()  # a message that is not there in full
        for line in lines:
            what, value = msgspec.json.decode(line)
            if what == "stats":
                control.sendall(counts())
            elif what == "upstreams":
                route(proxy.context, msgspec.json.decode(value, type=list[Upstream]))
            elif what == "release":
                released.set()

    unread = bytearray()
    released = asyncio.Event()
    loop.add_reader(control, answer)
    listening = bind(settings, shared=True)
    writer = proxy.recorder.writer
    watching = loop.create_task(security.watch())
    if held:
        listening.listen(BACKLOG)
        await first_of(released.wait(), stop.wait())
    await serve(proxy, listening, stop)
    watching.cancel()
    with suppress(OSError):
        control.sendall(msgspec.json.encode([writer, proxy.stats()]) + b"\n")


def find_version(question: Question | None, upstreams: Upstreams) -> VersionFinder | None:
    """Begin to ask for the version of the champion, where it is to be asked for and none is named."""

    def unnamed() -> bool:
        return any(one.variant == "champion" and one.version is None for one in upstreams.now)

    if question is None or not unnamed():
        return None
    return VersionFinder(question, unnamed, upstreams.name)


async def open_admin(settings: FrontSettings, security: Security, admin: Admin) -> asyncio.Server | None:
    """Listen on the admin port, where there is to be one; that it is taken is said, and no more."""
    if settings.admin_port < 0:
        return None
    try:
        return await admin.serve(settings, security)
    except OSError as error:
        where = f"{settings.admin_host}:{settings.admin_port}"
        why = error.strerror or error
        logger.warning("can't listen on %s for the admin port: %s; there is none now", where, why)
        return None


async def look_after(
    drainer: Drainer, labels: LabelIntake, security: Security, workers: list[Worker] | None = None
) -> None:
    """See again and again that drain and workers run, that labels go to the spool, and which keys there are."""
    while True:
        drainer.ensure()
        labels.tick()
        security.tick()
        for worker in workers or []:
            worker.look()
            await worker.stats()  # so that little is unknown of one that is killed
        await asyncio.sleep(_LOOK_SECONDS)


async def last_drain(settings: FrontSettings, drainer: Drainer) -> None:
    """Put what is left into the log, as far as that is done within `--drain-timeout`."""
    drainer.ensure(now=True)
    if not await asyncio.to_thread(drainer.finish, settings.drain_timeout):
        logger.warning("the log did not take everything in time; the rest stays in %s", settings.spool_path)


def stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    return stop


def announce(
    settings: FrontSettings,
    security: Security,
    listening: socket.socket,
    admin: asyncio.Server | None,
    served: str,
) -> None:
    """Say where clients and those who look after it find it."""
    port = listening.getsockname()[1]
    address = f"{security.scheme}://{settings.host}:{port}"
    logger.info("listening on %s for %s, logging to %s, %s", address, served, settings.log, form())
    if admin is not None:
        port = admin.sockets[0].getsockname()[1]
        url = f"{security.scheme}://{settings.admin_host}:{port}"
        logger.info("metrics, health and counts on %s/metrics, /readyz and /stats", url)


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed, else on asyncio's own loop."""
    # What a request leaves behind is freed without the collector, so that may look for cycles seldom, and not
    # among what is there from the start.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
