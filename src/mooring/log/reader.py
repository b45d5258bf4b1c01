"""Reading the log: objects are found by model and day, and read as one table with the model's recorded schema."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from obstore.exceptions import BaseError
from pyarrow.fs import LocalFileSystem

from mooring.log import store
from mooring.log.listing import (
    Instant,
    LogError,
    Object,
    Skipped,
    folder_name,
    instant,
    list_objects,
    only_model,
    open_log,
)
from mooring.log.schema import INFERENCES, PAYLOADS, TIME, Recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import ObjectStore

What = Literal["inferences", "payloads"]
Variants = str | Sequence[str] | None
"""Which variants are meant: one, or several. None or an empty one is all that clients were answered by, "all" all.

A shadow answers a copy of a request that another version answered, under the same request id: so its rows would
count twice, and come only where they are asked for.
"""

# Arrow drops what it has buffered ahead in a thread of its own. Where that came through Python, as a remote object
# does, and the process ends meanwhile, it aborts: so buffer ahead only where this process waits for the threads.
_FORMAT = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False))
_AHEAD = ds.ParquetFragmentScanOptions(pre_buffer=True)
_NOT_A_SHADOWS = pc.field("variant").is_null() | (pc.field("variant") != "shadow")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOOTERS_AT_ONCE = 16
_READS_AT_ONCE = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


class LogWarning(UserWarning):
    """An object in the log that can't be read, and is left out; `read_log` and `scan_log` warn of it."""


def read_log(
    uri: str | os.PathLike[str],
    *,
    model: str | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
    version: str | int | None = None,
    variant: Variants = None,
    columns: Sequence[str] | None = None,
    flat: bool = False,
    what: What = "inferences",
) -> pa.Table:
    """Return what a log holds of a model, as a table. Its rows are in no order in particular.

    Parameters
    ----------
    uri
        The log: a directory, or s3://, gs:// or az:// and a bucket.
    model
        The model's name; may be left out where the log has only one.
    start, end
        Only what was received from `start` on and before `end`; as ISO 8601 text too. UTC where no zone is given.
    version
        Only what this version of the model answered.
    variant
        Only what this variant answered: `champion`, `canary` or `shadow`, or several of them. By default what
        clients were answered: all but the shadow, whose rows have the request id and row of those that it is
        compared with. `all` is everything.
    columns
        Names of columns, and of fields as `input.alcohol` or `output.prediction`.
    flat
        The shape of the CSV files: predictions first, then inputs, no structs.
    what
        `inferences`, one row for each row that was scored, or `payloads`, one for each request, with its bodies.

    Raises LogError where there is no such log, model or column, and StoreError where the store refuses. An object
    that can't be read is left out with a LogWarning.
    """
    return scan_log(
        uri,
        model=model,
        start=start,
        end=end,
        version=version,
        variant=variant,
        columns=columns,
        flat=flat,
        what=what,
    ).read_all()


def scan_log(
    uri: str | os.PathLike[str],
    *,
    model: str | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
    version: str | int | None = None,
    variant: Variants = None,
    columns: Sequence[str] | None = None,
    flat: bool = False,
    what: What = "inferences",
) -> pa.RecordBatchReader:
    """Return what `read_log` does as a reader that holds only few of the log's objects in memory at a time."""
    if flat and what != "inferences":
        raise LogError(f"flat is the shape of inferences; {what} have no other than their own")
    found = find(uri, model=model, start=start, end=end, version=version, variant=variant, what=what)
    scanned = scan(found, choose(found.schema, columns, flat))
    return pa.RecordBatchReader.from_batches(scanned.schema, _with_warnings(scanned, found.skipped))


def _with_warnings(batches: pa.RecordBatchReader, skipped: Skipped) -> Iterator[pa.RecordBatch]:
    """Yield batches, and warn of what was skipped: at the beginning of what is known, at the end of more."""
    before = list(skipped)
    for path in before:
        warnings.warn(f"{path} is left out: {skipped[path]}", LogWarning, stacklevel=2)
    yield from batches
    for path in list(skipped)[len(before) :]:
        warnings.warn(f"{path} is left out: {skipped[path]}", LogWarning, stacklevel=2)


def scan(found: LogObjects, columns: Mapping[str, tuple[str, ...]]) -> pa.RecordBatchReader:
    """Return columns of objects, as `choose` gives them, as a reader."""
    schema = pa.schema([(name, type_at(found.schema, path)) for name, path in columns.items()])
    batches = (batch for _, table in tables(found, columns) for batch in table.cast(schema).to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


class LogObjects(NamedTuple):
    """The objects of a model by name, the schema to read them by, and which of their rows are meant.

    They are those that `filter` tells, and, where `live` is true, none that a shadow answered. `skipped` are
    objects that can't be read, as far as that is known; `tables` adds those at which it finds it out.
    """

    objects: dict[str, Object]
    fragments: dict[str, ds.ParquetFileFragment]
    schema: pa.Schema
    filter: pc.Expression | None
    live: bool
    skipped: Skipped

    def dataset(self) -> ds.Dataset:
        """Return them as a dataset, which engines such as DuckDB and Polars scan by themselves."""
        fragments = list(self.fragments.values())
        filesystem = fragments[0].filesystem if fragments else None
        dataset = ds.FileSystemDataset(fragments, self.schema, _FORMAT, filesystem)
        meant = self.filter_of(*fragments)
        return dataset if meant is None else dataset.filter(meant)

    def filter_of(self, *fragments: ds.ParquetFileFragment) -> pc.Expression | None:
        """Return what tells the rows that are meant of these objects, None where all of them are."""
        # A filter that keeps every row would still have them all copied.
        if not self.live or not any(map(_may_be_a_shadows, fragments)):
            return self.filter
        return _NOT_A_SHADOWS if self.filter is None else self.filter & _NOT_A_SHADOWS


def tables(found: LogObjects, columns: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, pa.Table]]:
    """Yield each object's name and rows. One that can't be read is left out, and put into `found.skipped`."""
    projection = {name: pc.field(*path) for name, path in columns.items()}

    def read(fragment: ds.ParquetFileFragment) -> pa.Table:
        return fragment.to_table(
            schema=found.schema,
            columns=projection,
            filter=found.filter_of(fragment),
            fragment_scan_options=_AHEAD,
            use_threads=False,
        )

    for path, table in _ahead(read, found.fragments, _READS_AT_ONCE):
        if isinstance(table, Exception):
            found.skipped[path] = _reason(table)
        else:
            yield path, table


def find(
    uri: str | os.PathLike[str],
    *,
    model: str | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
    version: str | int | None = None,
    variant: Variants = None,
    what: What = "inferences",
) -> LogObjects:
    """Return the objects that `read_log` would read. Those that are no part of this log are skipped."""
    if what not in ("inferences", "payloads"):
        raise LogError(f"what is inferences or payloads, not {what!r}")
    uri = os.fspath(uri)
    since, until = instant(start, "start"), instant(end, "end")
    opened = open_log(uri)
    model = only_model(opened, uri, model)
    listed = list_objects(opened, uri, f"{what}/model={folder_name(model)}", since, until)
    found = found_in(opened, uri, model, listed, PAYLOADS if what == "payloads" else None)
    return found._replace(filter=_filter(since, until, version, variant), live=not variant)


def found_in(
    opened: ObjectStore, uri: str, model: str, listed: Sequence[Object], schema: pa.Schema | None = None
) -> LogObjects:
    """Return these objects of a log; those that are no part of it are skipped.

    They are read by `schema`, by default that of the model's inferences. What a shadow answered is left out.
    """
    objects = {one.path: one for one in listed}
    fragments: dict[str, ds.ParquetFileFragment] = {}
    skipped: Skipped = {}
    for path, fragment in _ahead(lambda one: _fragment(opened, uri, one), objects, _FOOTERS_AT_ONCE):
        if isinstance(fragment, Exception):
            skipped[path] = _reason(fragment)
        else:
            fragments[path] = fragment
    schema = schema or _inferences_schema(opened, uri, model, fragments)
    for path, fragment in list(fragments.items()):
        if problem := _foreign(fragment.physical_schema, schema):
            del fragments[path]
            skipped[path] = problem
    return LogObjects(objects, fragments, schema, None, "variant" in schema.names, skipped)


def choose(schema: pa.Schema, columns: Sequence[str] | None, flat: bool) -> dict[str, tuple[str, ...]]:
    """Return the columns that are meant, by name, each as its place in the schema. Raises LogError for others.

    >>> struct = pa.struct({"prediction": pa.float64(), "pH": pa.float64()})
    >>> schema = pa.schema({"time": TIME, "input": struct, "output": struct})
    >>> choose(schema, ["time", "input.pH"], flat=False)
    {'time': ('time',), 'input.pH': ('input', 'pH')}
    >>> list(choose(schema, None, flat=True))
    ['prediction', 'pH', 'input.prediction', 'input.pH']
    """
    top: dict[str, tuple[str, ...]] = {name: (name,) for name in schema.names}
    parts = {
        part: [field.name for field in schema.field(part).type] if part in schema.names else []
        for part in ("output", "input")
    }
    fields = {f"{part}.{name}": (part, name) for part, names in parts.items() for name in names}
    known = {**fields, **top}
    default = top
    if flat:
        default = {name: ("output", name) for name in parts["output"]}
        for name in parts["input"]:
            default[name if name not in default else f"input.{name}"] = ("input", name)
        known |= default
    if columns is None:
        return default
    chosen = {}
    for name in columns:
        if name not in known:
            close = get_close_matches(name, known, 3) or list(known)
            raise LogError(f"there is no column {name}; there is: {', '.join(close)}")
        chosen[name] = known[name]
    return chosen


class _RemoteFile(io.RawIOBase):
    """An object of a store as a file; its size is known from the listing, so that no request asks for it."""

    def __init__(self, opened: ObjectStore, uri: str, path: str, size: int) -> None:
        super().__init__()
        self._store, self._uri, self._path, self._size = opened, uri, path, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        start, self._at = self._at, self._size if size < 0 else min(self._at + size, self._size)
        if self._at <= start:
            return b""
        try:
            return bytes(obstore.get_range(self._store, self._path, start=start, end=self._at))
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise store.StoreError(store.explain(error, self._uri)) from error


def _fragment(opened: ObjectStore, uri: str, one: Object) -> ds.ParquetFileFragment:
    if store.is_local(uri):
        fragment = _FORMAT.make_fragment(str(Path(uri.removeprefix("file://"), one.path)), LocalFileSystem())
    else:
        file = _RemoteFile(opened, uri, one.path, one.size)
        fragment = _FORMAT.make_fragment(pa.PythonFile(file, mode="r"))
    fragment.ensure_complete_metadata()
    return fragment


def _inferences_schema(
    opened: ObjectStore, uri: str, model: str, fragments: dict[str, ds.ParquetFileFragment]
) -> pa.Schema:
    recorded = Recorded(opened, uri, folder_name(model))
    if not recorded.is_new:
        return recorded.fields.arrow()
    schema = INFERENCES  # `schemas/` did not come along: the objects say themselves what they hold
    for part in ("input", "output"):
        fields: dict[str, pa.DataType] = {}
        for fragment in fragments.values():
            physical = fragment.physical_schema
            if part in physical.names and pa.types.is_struct(physical.field(part).type):
                for field in physical.field(part).type:
                    fields.setdefault(field.name, field.type)
        if fields:
            schema = schema.append(pa.field(part, pa.struct(list(fields.items()))))
    return schema


def _foreign(physical: pa.Schema, schema: pa.Schema) -> str:
    """Say what makes an object no part of the log, if anything does."""
    for field in schema:
        if field.name not in physical.names:
            if not field.nullable:
                return f"it has no column {field.name}"
            continue
        there = physical.field(field.name).type
        if pa.types.is_struct(field.type) and pa.types.is_struct(there):
            known = {one.name: one.type for one in field.type}
            odd = [one for one in there if known.get(one.name, one.type) != one.type]
            if odd:
                return f"its {field.name}.{odd[0].name} is {odd[0].type}, not {known[odd[0].name]}"
        elif there != field.type:
            return f"its column {field.name} is {there}, not {field.type}"
    return ""


def _may_be_a_shadows(fragment: ds.ParquetFileFragment) -> bool:
    """Whether any of an object's rows can be of a shadow, by its statistics."""
    metadata = fragment.metadata
    columns = [at for at in range(metadata.num_columns) if metadata.schema.column(at).path == "variant"]
    for group in range(metadata.num_row_groups):
        for column in columns:
            told = metadata.row_group(group).column(column).statistics
            if told is None or not told.has_min_max or told.min <= "shadow" <= told.max:
                return True
    return False


def time_filter(start: datetime | None, end: datetime | None) -> pc.Expression | None:
    """Return what tells rows whose time is in [start, end)."""
    return _filter(start, end, None, None)


def _filter(
    start: datetime | None, end: datetime | None, version: str | int | None, variant: Variants
) -> pc.Expression | None:
    conditions = []
    if start is not None:
        conditions.append(pc.field("time") >= _scalar(start))
    if end is not None:
        conditions.append(pc.field("time") < _scalar(end))
    if version is not None:
        conditions.append(pc.field("model_version") == str(version))
    names = [variant] if isinstance(variant, str) else list(variant or ())
    if names and "all" not in names:
        conditions.append(pc.field("variant").isin(names))
    combined = None
    for condition in conditions:
        combined = condition if combined is None else combined & condition
    return combined


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar((moment - _EPOCH) // timedelta(microseconds=1), pa.int64()).cast(TIME)


def type_at(schema: pa.Schema, path: tuple[str, ...]) -> pa.DataType:
    """Return the type of a column, or of a field of one, as `choose` gives its place."""
    kind = schema.field(path[0]).type
    return kind if len(path) == 1 else kind.field(path[1]).type


def _ahead(
    read: Callable[[Item], Result], items: dict[str, Item], at_once: int
) -> Iterator[tuple[str, Result | Exception]]:
    """Yield what `read` makes of each item, or why it can't be read; a few are read ahead.

    Raises StoreError where the store refuses: then it is not the object that is to blame.
    """
    waiting: list[tuple[str, Future[Result]]] = []
    rest = iter(items.items())
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while True:
                while len(waiting) < at_once and (item := next(rest, None)) is not None:
                    waiting.append((item[0], pool.submit(read, item[1])))
                if not waiting:
                    return
                path, future = waiting.pop(0)
                try:
                    yield path, future.result()
                except store.StoreError:
                    raise
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                    yield path, error
        finally:
            for _, future in waiting:
                future.cancel()


def _reason(error: Exception) -> str:
    return re.sub("^Could not open Parquet input source '.*': ", "", str(error).partition("\n")[0])
