"""Which version is served, and which is rolled out next: what the controller's loop decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mooring.capture.say import Seldom, say
from mooring.monitor.database import StateError
from mooring.monitor.tracking import TrackingError
from mooring.retrain.registry import CHAMPION, Missing
from mooring.rollout import models, watching
from mooring.rollout.background import Chores, Returned
from mooring.rollout.keeping import Keeper, Lead
from mooring.rollout.messages import FromController, FromFront, Model, Outcomes, Replayed, Serving
from mooring.rollout.plan import parse
from mooring.rollout.rolling import SELDOM_SECONDS, Rolling
from mooring.rollout.rollouts import TO_GO, Rollout
from mooring.rollout.start import Start

_LEAD_SECONDS = 2.0
_KEEP_SECONDS = 0.5
_ALERT_SECONDS = 5.0


class CantServe(Exception):
    """What is to be served is not there, and waiting does not help; the message says what to do."""


class Deciding:
    """Watches the registry and the state, and begins what they call for.

    Where an alias is followed, it is polled. The supervisor that has the lease of `@champion` rolls challengers
    out, keeps its rollouts in the state and moves the alias; any other loads, checks and serves what it names.
    Raises ValueError for a plan that can't be read.
    """

    def __init__(
        self, start: Start, keeper: Keeper, returned: Returned, send: Callable[[FromController], None]
    ) -> None:
        self._start = start
        self._keeper = keeper
        self._chores = Chores(returned, ("state", "registry", "files", "alerts"), self._go_on)
        self._rolling = Rolling(start, parse(start.settings.rollout_step), keeper, self._chores, send)
        self._seldom = Seldom(SELDOM_SECONDS)
        self._may_lead = start.alias == CHAMPION
        self._asked_state = self._asked_registry = self._opened = False
        self._to_take_up: Lead | None = None
        self._others: Rollout | None = None  # what another supervisor rolls out

    def told(self, message: FromFront) -> None:
        """The front says something."""
        current = self._rolling.current
        if isinstance(message, Serving):
            self._rolling.serving(message.servers)
            if current is not None:
                current.serving(message.servers)
        elif current is not None:
            if isinstance(message, Replayed):
                current.replayed(message)
            elif isinstance(message, Outcomes):
                current.outcomes(message)

    def tick(self) -> None:
        """Some time has passed: do what is due."""
        poll = self._start.settings.poll
        if self._rolling.current is not None:
            self._rolling.current.tick()
        if not self._opened:
            self._chores.every("open", poll, self._open)
        elif self._may_lead:
            self._chores.every("lead", _LEAD_SECONDS, self._lead)
        if self._start.alias is not None and (self._opened or self._asked_state):
            self._chores.every("look", poll, partial(self._look, self._start.alias))
        if self._rolling.leads:
            self._chores.every("keep", _KEEP_SECONDS, self._keep)
            self._chores.every("tell", _ALERT_SECONDS, self._tell)
        self._go_on()

    # What is looked at

    def _open(self) -> None:
        def opened(last: str | None) -> None:
            self._opened, self._rolling.last = True, last
            self._asked_state = self._asked_state or not self._may_lead

        self._chores.do("open", "state", self._keeper.open, opened, self._no_state)

    def _no_state(self, error: Exception) -> None:
        self._asked_state = True
        self._rolling.not_kept(error)

    def _lead(self) -> None:
        def led(lead: Lead) -> None:
            first, self._asked_state = not self._asked_state, True
            self._others = None if lead.has else lead.rollout
            if lead.has and not self._rolling.leads:
                self._rolling.drop()
                self._rolling.leads, self._to_take_up = True, lead
                if not first:
                    say(f"this supervisor rolls out {self._start.model} from now on")
            elif first and not lead.has:
                say(f"another supervisor rolls out {self._start.model}; this one follows the champion")

        self._chores.do("lead", "state", self._keeper.lead, led, self._no_state)

    def _look(self, alias: str) -> None:
        def looked(seen: watching.Seen) -> None:
            self._asked_registry = True
            if seen.held is not None:
                self._seldom(
                    f"version {seen.held.version} of {self._start.model} is not served, though "
                    f"{self._start.follows} names it: {seen.held.why}"
                )
            if seen.refused:
                self._seldom(seen.refused)
            unfit = self._rolling.unfit
            self._rolling.unfit = {version: why for version, why in unfit.items() if version in seen[:2]}
            self._rolling.seen = seen

        def failed(error: Exception) -> None:
            if not isinstance(error, TrackingError):
                raise error
            self._asked_registry = True
            self._seldom(f"{error}. What is served stays; it is tried again")

        served = self._rolling.served.version if self._rolling.served is not None else None
        work = partial(watching.look, self._start.model, alias, self._keeper.state, served)
        self._chores.do("look", "registry", work, looked, failed)

    def _keep(self) -> None:
        """Write what the guards know, and see whether somebody asks for something."""
        current = self._rolling.current
        if current is None or current.status not in TO_GO:
            return

        def kept(rollout: Rollout) -> None:
            if rollout.wish is not None and current is self._rolling.current:
                self._chores.write(partial(self._keeper.taken, rollout), self._rolling.not_kept)
                current.wish(rollout.wish, rollout.wish_by or "somebody", rollout.wish_reason or "")

        work = partial(self._keeper.keep, current.kept())
        self._chores.do("keep", "state", work, kept, self._rolling.not_kept)

    def _tell(self) -> None:
        def failed(error: Exception) -> None:
            if not isinstance(error, StateError):
                raise error
            self._seldom(f"{error}. Alerts wait for it")

        self._chores.do("tell", "alerts", self._keeper.tell, lambda _: None, failed)

    # What is next

    def _go_on(self) -> None:
        """Begin what there is to begin now, if there is anything."""
        rolling = self._rolling
        if not self._chores.is_free("serve", "begin", "finish"):
            return
        if not rolling.leads:
            self._to_take_up = None
        if self._to_take_up is not None and self._to_take_up.rollout is not None:
            self._take_up(self._to_take_up, self._to_take_up.rollout)
        elif rolling.current is not None:
            rolling.go_on(rolling.current)
        elif rolling.served is None:
            self._first()
        elif rolling.seen is not None:
            self._next(rolling.seen, rolling.served)

    def _take_up(self, lead: Lead, rollout: Rollout) -> None:
        served = self._rolling.served
        if rollout.previous is None or (served is not None and served.version == rollout.previous):
            self._to_take_up = None
            self._rolling.take_up(rollout, lead.holdout)
            return

        def brought(model: Model) -> None:
            self._rolling.served = model

        def failed(error: models.BringError) -> None:
            self._chores.wait("serve", self._start.settings.poll)
            self._seldom(f"{error}")

        self._rolling.bring("serve", rollout.previous, brought, failed)

    def _first(self) -> None:
        """Serve what is to be served from the beginning. Raises CantServe."""
        rolling, seen, start = self._rolling, self._rolling.seen, self._start
        if not self._asked_state or not (self._asked_registry or start.version is not None):
            return
        version = start.version or (seen.followed if seen is not None else rolling.last)
        if version is None and seen is not None and seen.held is not None:
            version = rolling.last or seen.held.champion
        if self._others is not None and version == self._others.version and self._others.previous is not None:
            version = self._others.previous  # the alias was moved to a version that has still to prove itself
        if version is None:
            if rolling.leads and seen is not None and seen.challenger not in (None, *rolling.unfit):
                rolling.begin(f"{seen.challenger}", "challenger", seen.ticket)
            elif seen is not None and seen.held is None:
                raise CantServe(
                    f"MLflow knows no models:/{start.model}{start.follows}: check the name, or give a version the "
                    "alias"
                )
            else:
                self._seldom(f"nothing is served yet: models:/{start.model}{start.follows} is not known")
            return
        if version in rolling.unfit and rolling.last is not None:
            version = rolling.last  # what the alias names can't even be brought; its rollout will tell

        def brought(model: Model) -> None:
            rolling.served = model
            rolling.unfit.clear()
            rolling.serve()
            say(f"version {model.version} of {start.model} is served")

        rolling.bring("serve", version, brought, partial(self._not_brought, version))

    def _not_brought(self, version: str, error: models.BringError) -> None:
        away = isinstance(error.__cause__, TrackingError) and not isinstance(error.__cause__, Missing)
        if self._rolling.last not in (None, version):
            self._rolling.unfit[version] = f"not brought here: {error}"
        elif not away:
            raise CantServe(f"{error}")
        else:
            self._chores.wait("serve", self._start.settings.poll)
        self._seldom(f"{error}")

    def _next(self, seen: watching.Seen, served: Model) -> None:
        """Begin a rollout where the registry calls for one."""
        rolling, others, follows = self._rolling, self._others, self._start.follows
        where = f"version {served.version} of {self._start.model} stays in service"
        if seen.followed is not None and seen.followed != served.version:
            if others is not None and others.version == seen.followed:
                rolling.hold_back("")  # whoever rolls it out will make it the champion, or take the alias back
            elif seen.followed in rolling.unfit:
                also = f"; version {seen.challenger}, the challenger, waits for that" if seen.challenger else ""
                rolling.hold_back(
                    f"{where}, although {follows} names version {seen.followed}, which was "
                    f"{rolling.unfit[seen.followed]}. To have it tried again, move {follows} to version "
                    f"{served.version} for longer than --poll, and back{also}"
                )
            else:
                rolling.begin(seen.followed, "moved")
        elif rolling.leads and seen.challenger in rolling.unfit:
            rolling.hold_back(
                f"{where}, and version {seen.challenger} is not tried again as long as it is the challenger: "
                f"it was {rolling.unfit[f'{seen.challenger}']}"
            )
        elif rolling.leads and seen.challenger not in (None, served.version):
            rolling.begin(f"{seen.challenger}", "challenger", seen.ticket)
        elif seen.held is not None:
            rolling.hold_back(f"{where}, although {follows} names version {seen.held.version}: {seen.held.why}")
        else:
            rolling.hold_back("")
