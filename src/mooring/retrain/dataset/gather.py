"""The data that a model is trained anew on: the labelled rows of the log, the newest of them held out."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mooring.files import clear, close, locked, make_directory, replace, sync
from mooring.log.schema import ARROW, TIME, as_nested
from mooring.retrain.dataset import original as originals
from mooring.retrain.dataset.labelled import Flags, Labelled, Windows

MANIFEST = "manifest.json"
TRAINING = "training/training.parquet"
HOLDOUT = "holdout/holdout.parquet"
SEALED = "holdout.sealed"
"""The holdout while training runs: no Parquet file, and one that nobody may read or write."""
KEYS = ("request_id", "row", "time")
LOGGED = "logged."
"""What the names of the holdout's columns with the logged predictions begin with."""
PROTECTED = "protected."
"""What the names of the holdout's columns begin with that have protected values, and that no model is given."""
_LOCK = ".dataset.lock"
_PART = ".dataset-"
_VALUES_A_WRITE = 4_000_000
_BLOCK = 1 << 20


class NotEnough(Exception):
    """There are too few labelled rows to train on; the message says what is missing."""


class Changed(Exception):
    """The holdout is not the one that was gathered, or is gone; the message says so."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset is made of.

    `start` and `end` are the range of the log. `rows` rows are in the training data, `original_rows` of them from
    the original ones, `holdout_rows` in the holdout. `labelled` and `unlabelled` count the rows of the log that
    are meant (of the windows, where there are any), `versions` are those that answered the labelled ones. `label`
    and `features` name the columns, `keys` those of request id, row and time in the holdout: they are called
    otherwise where a feature has the name. `digest` is the SHA-256 of both files, the training data first,
    `holdout_digest` that of the holdout alone, which is at `holdout` once it is opened. `notes` are for whoever
    reads it.
    """

    model: str
    ticket: str
    created: datetime
    start: datetime
    end: datetime
    rows: int
    original_rows: int
    holdout_rows: int
    labelled: int
    unlabelled: int
    versions: list[str]
    label: str
    features: list[str]
    digest: str
    training: str
    holdout: str
    holdout_digest: str = ""
    original: str | None = None
    keys: tuple[str, str, str] = KEYS
    notes: list[str] = []


def make(
    log: str,
    model: str,
    directory: Path,
    *,
    ticket: str,
    start: datetime | None = None,
    end: datetime | None = None,
    windows: Windows | None = None,
    since: datetime | None = None,
    holdout: float,
    min_labels: int,
    label: str,
    original: str | None = None,
    original_share: float = 0.0,
    protected: Sequence[str] = (),
    seed: int = 0,
) -> Manifest:
    """Write a dataset into a directory, unless it is there already, and return its manifest.

    The training data have the features as the log has them and the label, and no other columns. Tensors are lists
    in lists, as clients send them; where those of a feature differ in their number of dimensions, which no type of
    lists can say, they stay as the log has them. The holdout has the request id, row and time of each row too,
    what the champion answered then as `logged.NAME`, where it was the champion that answered, and the protected
    values that came with the label as `protected.NAME`. A request that several variants answered counts once,
    those that a shadow answered do not. Which label a row has, `mooring.log.label_join` says; requests that share
    one are held out together.

    Parameters
    ----------
    log, model
        Whose rows.
    directory
        Gets `training/training.parquet`, the holdout, which `open_holdout` opens, and, last, `manifest.json`;
        another copy of that, which does not tell of the holdout, is beside the training data.
    ticket
        What the dataset is for.
    start, end
        The range: rows that were received from `start` on and before `end`, by default now.
    windows
        Train only on the rows of these times, each from its start on and before its end.
    since
        When what called for it began: the holdout must be of rows since, else it would show nothing of it.
    holdout
        Share of the labelled rows of the whole range, the newest, that is held out, as near as requests come.
    min_labels
        How many labelled rows are needed, holdout and all; half of what that leaves to train on must be left.
    label
        The label's column.
    original, original_share
        File of the original training data, and which share of the training data they are to be.
    protected
        The protected columns whose values the holdout is to have.
    seed
        Of the choice among them.

    Raises NotEnough where labels are missing, LogError where there is no such log or model, StoreError where it
    refuses, SourceError where the original data do not fit, ValueError for a name that can't be the label's, and
    for a directory that holds the data of another ticket.
    """
    directory = directory.resolve()
    make_directory(directory, directory)
    close(directory)  # an earlier version left it open
    with locked(directory / _LOCK):
        if found := read(directory):
            if (found.model, found.ticket) != (model, ticket):
                raise ValueError(f"{directory} holds the data of another ticket, {found.ticket} of {found.model}")
            return found
        for stale in directory.glob(f"{_PART}*"):
            shutil.rmtree(stale)
        until = end or datetime.now(UTC)
        rows = Labelled(log, model, start, until, windows)
        names = _Names(rows.found.schema, label, protected)
        held = rows.newest(holdout)
        trained = ~held & rows.in_windows
        _check_enough(rows, trained, min_labels, holdout, windows is not None)
        if since is not None:
            _check_recent(rows, held, since)
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=directory))
        labels = rows.label_values()
        notes = names.nest(rows, trained | held)
        count = int(trained.sum())
        wanted = round(original_share / (1 - original_share) * count)
        mixed = names.training(labels.type).empty_table()
        if original is not None and wanted:
            mixed, there = originals.draw(original, mixed.schema, label, wanted, seed)
            if there < wanted:
                share = f"{original_share:g} of the training data would be {wanted:,}"
                notes.append(f"{original} has {there:,} rows with a label; {share}")
        _write(part, rows, names, labels, trained, held, mixed)
        manifest = Manifest(
            model=model,
            ticket=ticket,
            created=datetime.now(UTC),
            start=start or rows.first,
            end=until,
            rows=count + mixed.num_rows,
            original_rows=mixed.num_rows,
            holdout_rows=int(held.sum()),
            labelled=rows.labelled,
            unlabelled=rows.unlabelled,
            versions=rows.versions,
            label=label,
            features=list(names.features),
            digest=_digest(part / TRAINING, part / HOLDOUT),
            training=str(directory / TRAINING),
            holdout=str(directory / HOLDOUT),
            holdout_digest=_digest(part / HOLDOUT),
            original=original,
            keys=names.keys,
            notes=notes,
        )
        _publish(part, directory, manifest)
        return manifest


def read(directory: Path) -> Manifest | None:
    """Return the manifest of the dataset in a directory; None where there is none."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None


def open_holdout(directory: Path, digest: str) -> Path:
    """Write the holdout of a dataset in a directory as a Parquet file, and return where it is.

    That is to be done only once nobody trains any more. What lies in its place is replaced. Raises Changed unless
    it has the digest that it had when it was gathered.
    """
    sealed, opened = directory / SEALED, directory / HOLDOUT
    clear(opened.parent)
    opened.parent.mkdir()
    try:
        if sealed.is_symlink():
            raise Changed(f"the holdout {sealed} was replaced while the model was trained")
        sealed.chmod(0o600)
        with gzip.open(sealed) as source, opened.open("xb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
    except FileNotFoundError:
        raise Changed(f"the holdout {sealed} was removed while the model was trained") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Changed(f"the holdout {sealed} was changed while the model was trained: {error}") from None
    if _digest(opened) != digest:
        clear(opened.parent)
        raise Changed(f"the holdout {sealed} was changed while the model was trained: its digest is another")
    return opened


class _Names:
    """What the columns are called. Raises ValueError where two would be called the same."""

    def __init__(self, schema: pa.Schema, label: str, protected: Sequence[str]) -> None:
        self.label = label
        self.protected = protected
        self.features = _fields(schema, "input")
        self.predictions = _fields(schema, "output")
        if not self.features:
            raise ValueError("the log has no columns of the model's input to train on: it is not tabular")
        if label in self.features:
            raise ValueError(
                f"the label's column can't be called {label}: a feature is. Give it another name (retrain label)"
            )
        taken = {label, *self.features, *(LOGGED + name for name in self.predictions)}
        if len(taken) != 1 + len(self.features) + len(self.predictions):
            raise ValueError(f"the label or a feature is called {LOGGED}…, as the logged predictions are")
        if clash := taken & {PROTECTED + name for name in protected}:
            raise ValueError(f"the label or a feature is called {min(clash)}, as a protected column of labels is")
        keys = [name if name not in taken else f"mooring.{name}" for name in KEYS]
        self.keys = (keys[0], keys[1], keys[2])

    def nest(self, rows: Labelled, wanted: Flags) -> list[str]:
        """Make features that are tensors lists in lists, and return what is to be said of those that can't be."""
        tensors = [name for name, kind in self.features.items() if kind == ARROW["tensor"]]
        depths: dict[str, set[int]] = {name: set() for name in tensors}
        if tensors:
            for _, table in rows.tables(wanted, {name: ("input", name) for name in tensors}):
                for name in tensors:
                    shapes = pc.struct_field(table[name], "shape")
                    depths[name].update(pc.unique(pc.list_value_length(shapes)).drop_null().to_pylist())
        notes = []
        for name, found in depths.items():
            if len(found) > 1:
                told = " or ".join(map(str, sorted(found)))
                notes.append(f"{name} has tensors of {told} dimensions: they are structs of values and shape")
                continue
            self.features[name] = pa.float64()
            for _ in range(max(found, default=1)):
                self.features[name] = pa.list_(self.features[name])
        return notes

    def training(self, label: pa.DataType) -> pa.Schema:
        """Return the schema of the training data."""
        return pa.schema([*self.features.items(), (self.label, label)])

    def holdout(self, label: pa.DataType) -> pa.Schema:
        """Return the schema of the holdout."""
        keys = zip(self.keys, (pa.string(), pa.int32(), TIME), strict=True)
        logged = [(LOGGED + name, kind) for name, kind in self.predictions.items()]
        beside = [(PROTECTED + name, pa.string()) for name in self.protected]
        return pa.schema([*self.training(label), *(pa.field(name, kind) for name, kind in keys), *logged, *beside])


def _fields(schema: pa.Schema, part: str) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema.field(part).type} if part in schema.names else {}


def _check_enough(rows: Labelled, trained: Flags, min_labels: int, holdout: float, windowed: bool) -> None:
    where = " in the drifted windows" if windowed else ""
    missing = f"labels for {rows.unlabelled:,} rows are missing"
    if rows.labelled < min_labels:
        raise NotEnough(f"{rows.labelled:,} of {min_labels:,} labelled rows{where}; {missing}")
    count = int(trained.sum())
    needed = max(1, int(min_labels * (1 - holdout) / 2))
    if count < needed:
        held = f"{holdout:g} of all labelled rows, the newest, are held out, by whole requests"
        raise NotEnough(f"{count:,} of {needed:,} labelled rows{where} to train on: {held}; {missing}")


def _check_recent(rows: Labelled, held: Flags, since: datetime) -> None:
    recent = rows.times >= (since - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)
    if (held & ~recent).any():
        raise NotEnough(
            f"{int(recent.sum()):,} labelled rows are of the time since {since:%Y-%m-%d %H:%M:%S} UTC, when it "
            f"began, and the holdout needs {int(held.sum()):,}: labels for newer rows are missing"
        )


def _write(
    part: Path,
    rows: Labelled,
    names: _Names,
    labels: pa.Array,
    trained: Flags,
    held: Flags,
    original: pa.Table,
) -> None:
    """Write training data and holdout, from the oldest data on, few of them in memory at a time."""
    features = {name: ("input", name) for name in names.features}
    logged = {LOGGED + name: ("output", name) for name in names.predictions}
    keys = dict(zip(names.keys, ((name,) for name in KEYS), strict=True))
    with _writing(part / TRAINING, names.training(labels.type)) as training:
        training.add(original)
        for places, table in rows.tables(trained, features):
            training.add(table.append_column(names.label, labels.take(places)))
    beside = {PROTECTED + name: rows.protected(name) for name in names.protected}
    with _writing(part / HOLDOUT, names.holdout(labels.type)) as holdout:
        for places, table in rows.tables(held, {**features, **keys, **logged}):
            champion = pa.array(rows.champion[places])
            for name in logged:
                values = pc.if_else(champion, table[name], pa.scalar(None, table[name].type))
                table = table.set_column(table.column_names.index(name), name, values)
            for name, protected in beside.items():
                table = table.append_column(name, protected.take(pa.array(places)))
            holdout.add(table.append_column(names.label, labels.take(places)))


class _Writer:
    """A Parquet file whose row groups are of some size, however small the tables are that it is given."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._limit = max(_VALUES_A_WRITE // len(schema), 1)

    def add(self, table: pa.Table) -> None:
        for place, field in enumerate(table.schema):
            wanted = self._schema.field(field.name).type
            if field.type == ARROW["tensor"] != wanted:
                table = table.set_column(place, field.name, as_nested(table[field.name], wanted))
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        if sum(map(len, self._waiting)) >= self._limit:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []


@contextmanager
def _writing(path: Path, schema: pa.Schema) -> Iterator[_Writer]:
    path.parent.mkdir(0o700)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    writer = _Writer(path, schema)
    try:
        yield writer
    finally:
        writer.close()
    sync(path)
    sync(path.parent)


def _publish(part: Path, directory: Path, manifest: Manifest) -> None:
    """Put what is written into its place. The manifest comes last: without it nothing else counts."""
    told: dict[str, Any] = msgspec.to_builtins(manifest)
    del told["holdout"]
    replace(part / Path(TRAINING).parent / MANIFEST, msgspec.json.format(msgspec.json.encode(told)), durable=True)
    _seal(part / HOLDOUT, part / SEALED)
    for name in (Path(TRAINING).parent, SEALED):
        clear(directory / name)
        (part / name).rename(directory / name)
    shutil.rmtree(part)
    sync(directory)
    replace(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)), durable=True)


def _seal(plain: Path, sealed: Path) -> None:
    """Write a file so that nobody takes it for data, or opens it by accident."""
    with plain.open("rb") as source, gzip.GzipFile(sealed, "wb", compresslevel=1, mtime=0) as target:
        shutil.copyfileobj(source, target, _BLOCK)
    sync(sealed)
    sealed.chmod(0)


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
