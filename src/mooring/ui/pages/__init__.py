"""Every page of the dashboard, and everything that can be done there."""

from mooring.ui.pages import (
    acts,
    capture,
    feature,
    history,
    incident,
    incidents,
    model,
    models,
    request,
    retraining,
    rollout,
)
from mooring.ui.routing import Action, Page

PAGES: tuple[Page, ...] = (
    models.PAGE,
    model.PAGE,
    feature.PAGE,
    incidents.PAGE,
    incident.PAGE,
    rollout.PAGE,
    retraining.PAGE,
    capture.PAGE,
    request.PAGE,
    request.SEARCH,
    history.PAGE,
)
ACTIONS: tuple[Action, ...] = acts.ACTIONS
