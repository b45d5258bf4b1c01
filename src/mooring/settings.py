"""What can be set: one typed definition of each setting, with its default and what it is.

A setting has one name everywhere: config.py says how the others are made of it, and where they are read from.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from mooring import messages

Port = Annotated[int, Meta(ge=0, le=65535)]
DURATION = {"unit": "duration"}
WINDOW_BUDGET = 0.001
"""The chance that an unchanged window has anything that stands out, where no other is given."""
DROPPED = {
    "alert_windows": "an incident is opened once the evidence of all windows together is strong enough, and "
    "closed when it has passed: there is nothing to count",
    "retrain_windows": "an open incident of the champion is what leads to a retraining: there is nothing to count",
}
"""Settings that are no more, each with why: they are read, and change nothing."""
ARGV = {"unit": "argv"}
FalseAlarms = Annotated[
    str,
    Meta(
        pattern=r"^[0-9.]+ per [0-9.]+ *[smhd]$",
        description="how many there may be in what time where nothing changes, over all that this state's "
        "monitors watch",
    ),
]
Budget = Annotated[
    Annotated[str, Meta(pattern=r"^[0-9.eE-]+( per window)?$")] | float | None,
    Meta(
        description="instead, the chance that a window in which nothing changed raises any alarm, such as "
        "0.001: at many windows a day that is many alarms",
    ),
]
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

REMOTE = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl")
"""The schemes of logs that are no directory."""


ModelName = Annotated[
    str | None,
    Meta(description="name of the model, for the log; of models:/NAME@ALIAS the registry tells the version"),
]
StateUrl = Annotated[str, Meta(description="what the monitor remembers: sqlite:///PATH or postgresql://…")]
DEFAULT_LOG = "./mooring-log"
DEFAULT_STATE = "sqlite:///./.mooring/state.db"
ProtectedColumns = Annotated[
    tuple[str, ...],
    Meta(
        description="protected column, such as sex, by whose values rates and errors are told apart: an input, or "
        "a column that comes with labels; repeat it for more"
    ),
]
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_*][A-Za-z0-9_*]*$")]
"""A name, or several by a pattern, and no value: that stays where only the environment tells it."""


class MessageSettings(msgspec.Struct, kw_only=True, frozen=True):
    """What a process says on stderr, and how."""

    group: ClassVar = "Messages"

    message_format: Annotated[
        messages.Format, Meta(description="messages on stderr as lines of text, or as JSON, an object a line")
    ] = "text"
    message_level: Annotated[
        messages.Level, Meta(description="messages of this level and above; with debug text has times and levels")
    ] = "info"


class LogPlace(MessageSettings, kw_only=True, frozen=True):
    """Where the log lies."""

    group: ClassVar = "Log"

    log: Annotated[str, Meta(description="the log: a directory, or s3://, gs:// or az:// and a bucket")] = (
        DEFAULT_LOG
    )


class SpoolPlace(LogPlace, kw_only=True, frozen=True):
    """Where the log lies, and what waits to come into it."""

    spool: Annotated[
        str | None, Meta(description="directory of the spool [LOG/.spool, or ./.mooring/spool for a remote log]")
    ] = None

    @property
    def spool_path(self) -> Path:
        """The spool's directory: hidden in the log's own, so that both are on one disk, where that is local."""
        if self.spool:
            return Path(self.spool)
        local = self.log.removeprefix("file://")
        return Path(".mooring/spool") if "://" in local else Path(local) / ".spool"


class LogSettings(SpoolPlace, kw_only=True, frozen=True):
    """Where the log goes and how it gets there."""

    format: Annotated[
        Literal["parquet", "csv"], Meta(description="Parquet, or one CSV file a request (into a directory only)")
    ] = "parquet"
    drain_timeout: Annotated[
        float, Meta(ge=0, description="seconds that the last drain may take after the end of capture")
    ] = 30.0


class CaptureSettings(LogSettings, kw_only=True, frozen=True):
    """What is captured, and how safely it is kept until it is in the log."""

    group: ClassVar = "Capture"

    durability: Annotated[
        Literal["process", "power", "none"],
        Meta(description="an answered request survives kill -9; or loss of power; or is stored after the answer"),
    ] = "process"
    spool_max_bytes: Annotated[
        int, Meta(ge=0, description="bytes that may wait in the spool; what comes when it is full is dropped")
    ] = 10 * 2**30
    segment_bytes: Annotated[int, Meta(ge=1, description="bytes after which a segment goes to the log")] = (
        64 * 2**20
    )
    segment_seconds: Annotated[float, Meta(gt=0, description="seconds after which a segment goes to the log")] = (
        60.0
    )
    sample: Annotated[float, Meta(ge=0, le=1, description="share of the exchanges that are logged")] = 1.0
    redact: Annotated[
        tuple[str, ...],
        Meta(description="FIELD=drop, hash or mask: never stored as it is; FIELD is a name or a JSON path"),
    ] = ()
    redact_key: Annotated[str | None, Meta(description="secret key of the hashes that --redact makes")] = None
    max_payload: Annotated[
        int, Meta(ge=0, description="bytes of each body that are logged; longer ones are cut, in the log only")
    ] = 16 * 2**20
    header: Annotated[tuple[str, ...], Meta(description="request header to log; repeat it for more")] = ()


class LimitSettings(CaptureSettings, kw_only=True, frozen=True):
    """How much the proxy takes at a time."""

    group: ClassVar = "Limits"

    max_body: Annotated[int, Meta(ge=0, description="bytes of a request's body; a longer one gets 413")] = 2**30
    max_held: Annotated[
        int,
        Meta(
            ge=0,
            description="bytes of all bodies held in memory; beyond them a body is cut in the log, "
            "and a request that must be held gets 503",
        ),
    ] = 256 * 2**20
    max_connections: Annotated[
        int,
        Meta(
            ge=1, description="clients connected at a time; further ones get 503 (fewer where `ulimit -n` is low)"
        ),
    ] = 4096
    max_upstream_connections: Annotated[
        int,
        Meta(ge=1, description="connections to model servers at a time; a request that needs one more gets 503"),
    ] = 2048
    max_head: Annotated[
        int, Meta(ge=1, description="bytes of a head; a longer one of a request gets 431, of an answer 502")
    ] = 65536
    max_target: Annotated[int, Meta(ge=1, description="bytes of a request's target; a longer one gets 414")] = (
        16384
    )


class TimeoutSettings(LimitSettings, kw_only=True, frozen=True):
    """How long the proxy waits."""

    group: ClassVar = "Timeouts"

    connect_timeout: Annotated[float, Meta(gt=0, description="seconds to connect to the model server")] = 5.0
    receive_timeout: Annotated[
        float, Meta(gt=0, description="seconds for a request's head, and between pieces of its body")
    ] = 60.0
    response_timeout: Annotated[
        float, Meta(gt=0, description="seconds without a byte from the model server before 504")
    ] = 300.0
    idle_timeout: Annotated[float, Meta(gt=0, description="seconds that a client's idle connection is kept")] = (
        75.0
    )
    upstream_idle_timeout: Annotated[
        float,
        Meta(
            gt=0, description="seconds that an idle connection to the server is kept; less than it keeps it itself"
        ),
    ] = 4.0


class AccessSettings(TimeoutSettings, kw_only=True, frozen=True):
    """Who may ask, and how that is encrypted."""

    group: ClassVar = "TLS and keys"

    tls_cert: Annotated[
        str | None, Meta(description="certificate, in PEM, with which this port and the admin port speak https")
    ] = None
    tls_key: Annotated[str | None, Meta(description="private key of that certificate [in the same file]")] = None
    tls_client_ca: Annotated[
        str | None,
        Meta(description="certificates, in PEM, of the authorities one of which has signed every client's"),
    ] = None
    api_key_file: Annotated[
        str | None, Meta(description="file of bearer keys, one a line; without one of them a request gets 401")
    ] = None
    trust_forwarded: Annotated[
        bool, Meta(description="believe the X-Forwarded fields of clients, and add to them")
    ] = False


class AdminSettings(AccessSettings, kw_only=True, frozen=True):
    """The admin port."""

    group: ClassVar = "Admin port"

    admin_host: Annotated[str, Meta(description="address of the admin port")] = "127.0.0.1"
    admin_port: Annotated[
        int, Meta(ge=-1, le=65535, description="port of /metrics, /healthz, /readyz and /stats; -1 for none")
    ] = 0
    admin_key_file: Annotated[
        str | None,
        Meta(description="file of bearer keys for the admin port, one a line [those of --api-key-file, if any]"),
    ] = None
    admin_allowed_host: Annotated[
        tuple[str, ...],
        Meta(
            description="name under which the admin port is reached, as by Prometheus or behind a reverse proxy; "
            "repeat it for more"
        ),
    ] = ()
    labels_token: Annotated[
        str | None, Meta(description="bearer token of POST /labels on the admin port; without one it is closed")
    ] = None


class FrontSettings(AdminSettings, kw_only=True, frozen=True):
    """How the proxy deals with clients and servers, in `mooring proxy` and in `mooring serve`."""

    group: ClassVar = "Requests"

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="port to listen on; 0 takes a free one")] = 5001
    model: ModelName = None
    legacy_split: Annotated[
        bool, Meta(description="rewrap MLflow 1 bodies {columns, data} as dataframe_split")
    ] = True
    legacy_max_bytes: Annotated[
        int,
        Meta(ge=0, description="bytes of an MLflow 1 body that is rewrapped; a longer one passes as it is"),
    ] = 8 * 2**20
    sticky: Annotated[
        str | None,
        Meta(description="request header whose value decides which version answers; else each request's own id"),
    ] = None


class ProxySettings(FrontSettings, kw_only=True, frozen=True):
    """Settings of `mooring proxy`."""

    group: ClassVar = "Model server"

    upstream: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="URL of the model server, such as http://localhost:5002; of several versions each as "
            "VERSION:WEIGHT=URL, the champion first",
        ),
    ]
    model_version: Annotated[str | None, Meta(description="version of the model, for the log")] = None
    workers: Annotated[int, Meta(ge=1, description="processes that share the port")] = 1


class RolloutSettings(FrontSettings, kw_only=True, frozen=True):
    """How a new version is put into service, and what it must keep to."""

    group: ClassVar = "Rollout"

    rollout_step: Annotated[
        tuple[str, ...],
        Meta(
            description="step of a rollout, as `shadow 20% 10m 500` or `canary 5% 10m 200`: share, and time and "
            "requests at least; repeat it for more; `full` alone for none"
        ),
    ] = ("shadow 20% 1m 50 unless idle",)
    rollout_errors: Annotated[
        float,
        Meta(ge=0, lt=1, description="how much larger its share of failed requests may be than the champion's"),
    ] = 0.01
    rollout_latency: Annotated[
        float,
        Meta(ge=1, description="how many times as long as the champion's at the same moment its answers may take"),
    ] = 2.0
    rollout_quality: Annotated[
        float, Meta(ge=0, lt=1, description="share of its answers that may have no usable predictions")
    ] = 0.01
    rollout_difference: Annotated[
        float,
        Meta(
            ge=1, description="how many times as often as on the gate's holdout its predictions may differ widely"
        ),
    ] = 3.0
    rollout_false_alarms: Annotated[
        float, Meta(gt=0, lt=1, description="chance that a rollout of a version with no fault is rolled back")
    ] = 0.01


class ServeSettings(RolloutSettings, kw_only=True, frozen=True):
    """Settings of `mooring serve`."""

    group: ClassVar = "Model servers"

    state: StateUrl = DEFAULT_STATE
    env_manager: Annotated[
        Literal["local", "virtualenv", "uv", "conda"],
        Meta(
            description="environment of the model servers, as in MLflow: this one, or the one the model asks for"
        ),
    ] = "local"
    workers: Annotated[int, Meta(ge=1, description="model server processes for each version")] = 1
    timeout: Annotated[float, Meta(gt=0, description="seconds that a prediction may take before 504")] = 60.0
    concurrency: Annotated[int, Meta(ge=1, description="requests that a model server process has at a time")] = 1
    queue: Annotated[
        int,
        Meta(ge=0, description="requests that may wait for each process; those beyond get 503 and Retry-After"),
    ] = 64
    start_timeout: Annotated[
        float, Meta(gt=0, extra=DURATION, description="how long a model server may take to load its model")
    ] = 600.0
    worker_memory: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="bytes of memory at which a model server process is ended and replaced"),
    ] = None
    serve_directory: Annotated[
        str, Meta(description="directory of the versions' files, so that a restart needs no registry")
    ] = "./.mooring/serve"
    serve_environment: Annotated[
        tuple[VariableName, ...],
        Meta(
            description="variable, or pattern as AWS_*, that model servers get beside the usual ones; repeat it "
            "for more",
            extra={"alias": "--environment"},
        ),
    ] = ()
    poll: Annotated[float, Meta(gt=0, extra=DURATION, description="how often to look into the registry")] = 5.0


class DrainSettings(LogSettings, kw_only=True, frozen=True):
    """Settings of `mooring drain`."""


class LabelSettings(LogPlace, kw_only=True, frozen=True):
    """Settings of `mooring labels`."""

    model: Annotated[
        str | None, Meta(description="name of the model in the log; needed where the log has several")
    ] = None
    lookback: Annotated[
        float, Meta(gt=0, extra=DURATION, description="how far back in the log to look for requests")
    ] = 90 * 86_400.0
    protected: ProtectedColumns = ()


class StatePlace(LogPlace, kw_only=True, frozen=True):
    """Where the log and the monitor's state lie, and of which model."""

    group: ClassVar = "Model and state"

    model: ModelName = None
    state: StateUrl = DEFAULT_STATE


class JudgeSettings(StatePlace, kw_only=True, frozen=True):
    """What windows are, and what alarms."""

    group: ClassVar = "Windows and alarms"

    window: Annotated[float, Meta(gt=0, extra=DURATION, description="a window ends after this time")] = 3600.0
    window_rows: Annotated[int, Meta(ge=1, description="or after so many rows, whichever comes first")] = 1000
    min_rows: Annotated[
        float, Meta(ge=1, description="independent rows that a window needs to be judged; fewer are too few")
    ] = 30
    false_alarms: FalseAlarms = "1 per 90d"
    budget: Budget = None
    floors: Annotated[bool, Meta(description="let differences too small to matter pass, however certain")] = True
    threshold: Annotated[
        tuple[str, ...],
        Meta(
            description="MEASURE=VALUE or FEATURE.MEASURE=VALUE: alarm from there on instead; repeat it for more"
        ),
    ] = ()

    @property
    def false_alarm_seconds(self) -> float:
        """In what time there may be one false alarm; 0 where the budget is one per window. Raises ValueError."""
        return false_alarm_seconds(self.false_alarms, self.budget)

    @property
    def window_budget(self) -> float:
        """The chance that an unchanged window has anything that stands out. Raises ValueError where it is none."""
        return window_budget(self.budget)


class AlertSettings(JudgeSettings, kw_only=True, frozen=True):
    """Who is told of drift."""

    group: ClassVar = "Alerts"

    alert_webhook: Annotated[
        tuple[str, ...], Meta(description="URL that alerts are POSTed to; repeat it for more")
    ] = ()
    alert_secret: Annotated[str | None, Meta(description="key that signs what is sent to webhooks")] = None
    alert_command: Annotated[
        tuple[str, ...], Meta(description="program, with its arguments, that gets alerts on stdin")
    ] = ()


class MonitorSettings(AlertSettings, kw_only=True, frozen=True):
    """Settings of `mooring monitor`."""

    group: ClassVar = "Monitor"

    engine: Annotated[
        Literal["local", "spark"],
        Meta(description="profile rows in this process, or on the cluster that the Spark configuration names"),
    ] = "local"
    every: Annotated[float, Meta(gt=0, extra=DURATION, description="how often to look for what is new")] = 300.0
    segment: Annotated[
        tuple[str, ...],
        Meta(description="feature by whose values performance and drift are told apart too; repeat it for more"),
    ] = ()
    protected: ProtectedColumns = ()
    weight: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,
            description="the model's share of --false-alarms beside that of others: with 2 it has twice as many "
            "as with 1, and what changes is found sooner",
        ),
    ] = 1.0
    seasonality: Annotated[
        Literal["auto", "none"],
        Meta(
            description="compare what follows the hour of the day or the week with the same hours of earlier "
            "days, or everything with all windows before"
        ),
    ] = "auto"
    timezone: Annotated[
        str, Meta(description="time zone by whose clocks hours and days are, such as Europe/Berlin")
    ] = "UTC"
    holidays: Annotated[
        str | None,
        Meta(description="file of days that are not usual: 2026-12-25, or 2026-12-25/2026-12-28, on each line"),
    ] = None
    estimates: Annotated[
        bool,
        Meta(description="look at rows one by one: performance before there are labels, and features together"),
    ] = True
    grace: Annotated[
        float, Meta(ge=0, extra=DURATION, description="how late a row may come to be judged with its window")
    ] = 3600.0
    settle: Annotated[
        float, Meta(ge=0, extra=DURATION, description="how long after its end a window waits for its last rows")
    ] = 120.0
    keep: Annotated[
        float, Meta(ge=0, extra=DURATION, description="how long profiles of windows are kept; verdicts stay")
    ] = 90 * 86_400.0
    report: Annotated[
        str | None, Meta(description="HTML file that is written anew after each verdict; alerts name it")
    ] = None
    metrics_host: Annotated[str, Meta(description="address of the monitor's /metrics")] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(ge=-1, le=65535, description="port of the monitor's /metrics; -1 for none")
    ] = -1


class GateSettings(StatePlace, kw_only=True, frozen=True):
    """What a new version must show before it is promoted."""

    group: ClassVar = "Gate"

    gate_metric: Annotated[
        str | None,
        Meta(description="what has to be better [rmse; log_loss where there are probabilities, else accuracy]"),
    ] = None
    gate_better_by: Annotated[
        float, Meta(ge=0, lt=1, description="by how much it has to be better, as a share of the champion's value")
    ] = 0.02
    gate_confidence: Annotated[
        float, Meta(gt=0.5, lt=1, description="how sure that has to be, by a paired bootstrap of the holdout")
    ] = 0.95
    gate_min_rows: Annotated[int, Meta(ge=2, description="rows that the holdout needs at least")] = 100
    gate_segment: Annotated[
        tuple[str, ...], Meta(description="feature of whose values none may fare worse; repeat it for more")
    ] = ()
    gate_segment_worse: Annotated[
        float, Meta(ge=0, description="by how much a segment may be worse, as a share of the champion's value")
    ] = 0.1
    gate_segment_rows: Annotated[int, Meta(ge=2, description="rows that a segment needs to be looked at")] = 30
    protected: ProtectedColumns = ()
    gate_fairness: Annotated[
        float,
        Meta(
            ge=0,
            description="by how much groups of a protected column may be further apart than by the champion, or "
            "one have more errors; of numbers as a share of the champion's mean absolute error",
        ),
    ] = 0.05
    gate_latency: Annotated[
        float, Meta(gt=0, description="how many times as long as the champion it may take for a prediction")
    ] = 2.0
    gate_size: Annotated[
        float, Meta(gt=0, description="how many times as large as the champion it may be on disk")
    ] = 10.0
    gate_range: Annotated[
        float,
        Meta(ge=0, description="how far predictions may leave the range of all labels, as a share of that range"),
    ] = 0.5


class TrainingDataSettings(GateSettings, kw_only=True, frozen=True):
    """Which rows a model is trained on, and which are held out."""

    group: ClassVar = "Training data"

    retrain_range: Annotated[
        str,
        Meta(
            pattern=r"^(drifted|all|[0-9.]+ *[smhd]?)$",
            description="which rows to train on: drifted (those windows, and since), all, or of the last 30d, say",
        ),
    ] = "90d"
    retrain_original: Annotated[
        str | None, Meta(description="CSV or Parquet file of the original training data, to be mixed in")
    ] = None
    retrain_original_share: Annotated[
        float, Meta(ge=0, lt=1, description="share of the training data that is to come from that file")
    ] = 0.5
    retrain_holdout: Annotated[
        float, Meta(gt=0, lt=1, description="share of the labelled rows, the newest, that training never sees")
    ] = 0.2
    retrain_min_labels: Annotated[int, Meta(ge=1, description="labelled rows that training needs at least")] = 200
    retrain_label: Annotated[
        str | None, Meta(description="name of the label's column in the training data [the baseline's, or label]")
    ] = None


class RetrainSettings(TrainingDataSettings, kw_only=True, frozen=True):
    """When a model is trained anew, and how."""

    group: ClassVar = "Retraining"

    retrain_command: Annotated[
        str | None,
        Meta(extra=ARGV, description="program that trains, with its arguments; run without a shell"),
    ] = None
    retrain_python: Annotated[str | None, Meta(description="function that trains, as module:function")] = None
    retrain_webhook: Annotated[str | None, Meta(description="URL that is POSTed to, so that others train")] = None
    retrain_secret: Annotated[str | None, Meta(description="key that signs what is sent to that URL")] = None
    retrain_when: Annotated[
        tuple[Literal["drift", "joint", "performance", "estimated"], ...],
        Meta(description="which verdicts lead to it; joint: of features together, estimated: before labels"),
    ] = ("drift", "performance")
    retrain_drift: Annotated[
        Literal["any", "only_harmful"],
        Meta(description="whether any drift leads to it, or none that is estimated, or measured, to do no harm"),
    ] = "any"
    retrain_level: Annotated[
        Literal["warning", "critical"], Meta(description="how bad a verdict has to be to count")
    ] = "critical"
    retrain_cooldown: Annotated[
        float, Meta(ge=0, extra=DURATION, description="how long after one retraining none begins by itself")
    ] = 86_400.0
    retrain_max_per_week: Annotated[int, Meta(ge=0, description="how many may begin by themselves in 7 days")] = 3
    retrain_approval: Annotated[
        Literal["automatic", "manual"], Meta(description="whether somebody has to approve it first")
    ] = "automatic"
    retrain_timeout: Annotated[float, Meta(gt=0, extra=DURATION, description="how long training may take")] = (
        7200.0
    )
    retrain_attempts: Annotated[int, Meta(ge=1, description="how often it is tried")] = 2
    retrain_environment: Annotated[
        tuple[VariableName, ...],
        Meta(
            description="variable, or pattern as AWS_*, that the job gets beside the usual ones and MLFLOW_*; "
            "repeat it for more",
            extra={"alias": "--environment"},
        ),
    ] = ()
    retrain_directory: Annotated[
        str, Meta(description="directory of datasets, outputs and results, one for each ticket")
    ] = "./.mooring/retrain"

    @property
    def range_seconds(self) -> float | None:
        """How far back the rows to train on reach; None for those of drifted windows, or for all."""
        seconds = seconds_of(self.retrain_range)
        return seconds if isinstance(seconds, float) else None


class UiSettings(SpoolPlace, kw_only=True, frozen=True):
    """Settings of `mooring ui`."""

    state: StateUrl = DEFAULT_STATE
    ui_host: Annotated[str, Meta(description="address to listen on", extra={"alias": "--host"})] = "127.0.0.1"
    ui_port: Annotated[
        int,
        Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one", extra={"alias": "--port"}),
    ] = 5050
    ui_token: Annotated[
        Annotated[str, Meta(min_length=8)] | None,
        Meta(
            description="token of those who may act, and of all who look from elsewhere; better set as a variable"
        ),
    ] = None
    ui_allowed_host: Annotated[
        tuple[str, ...],
        Meta(
            description="name under which the dashboard is reached, as behind a reverse proxy; repeat it for more"
        ),
    ] = ()
    ui_mlflow: Annotated[
        str | None,
        Meta(description="address of MLflow's own UI, for links [the tracking URI, where that is http]"),
    ] = None
    false_alarms: FalseAlarms = "1 per 90d"
    budget: Budget = None


COMMANDS: dict[str, type[MessageSettings]] = {
    "proxy": ProxySettings,
    "serve": ServeSettings,
    "drain": DrainSettings,
    "monitor": MonitorSettings,
    "gate": GateSettings,
    "retrain": RetrainSettings,
    "ui": UiSettings,
}
"""The settings of each command that has any."""
GROUPS = ("retrain", "gate", "rollout", "serve", "ui")
"""How names of settings begin that may stand together in mooring.yaml."""


def false_alarm_seconds(false_alarms: str, budget: str | float | None) -> float:
    """Return in what time there may be one false alarm; 0 where the budget is one per window. Raises ValueError.

    >>> false_alarm_seconds("2 per 1d", None), false_alarm_seconds("2 per 1d", 0.001)
    (43200.0, 0.0)
    """
    if budget is not None:
        return 0.0
    count, _, time = false_alarms.partition(" per ")
    number, seconds = _number(count), seconds_of(time)
    if isinstance(seconds, str) or not number > 0 or not seconds > 0:
        raise ValueError(f"--false-alarms {false_alarms}: give a number and a time, such as '1 per 90d'")
    return seconds / number


def window_budget(budget: str | float | None) -> float:
    """Return the chance that an unchanged window has anything that stands out. Raises ValueError where it is none.

    >>> window_budget("0.01 per window"), window_budget(None)
    (0.01, 0.001)
    """
    found = _number(str(WINDOW_BUDGET if budget is None else budget).removesuffix(" per window"))
    if not 0 < found < 1:
        raise ValueError(f"--budget {budget}: it is a probability, such as 0.001")
    return found


def _number(text: str) -> float:
    """Return a number, NaN where a text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def seconds_of(text: str) -> float | str:
    """Return a time such as 90, 5m or 1h in seconds, or the text where it is none.

    >>> seconds_of("5m"), seconds_of("1.5h"), seconds_of("soon")
    (300.0, 5400.0, 'soon')
    """
    found = re.fullmatch(r"([0-9.]+)\s*([smhd]?)", text.strip())
    try:
        return float(found[1]) * _SECONDS[found[2] or "s"] if found else text
    except ValueError:
        return text


def duration_text(seconds: float) -> str:
    """Return seconds as they are written.

    >>> duration_text(3600.0), duration_text(90.0)
    ('1h', '90s')
    """
    for unit, size in reversed(_SECONDS.items()):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
