"""The baseline: grids and profile of the data that a model was trained on. Windows are compared with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.columns import (
    as_lengths,
    as_microseconds,
    as_numbers,
    as_texts,
    is_number,
    is_text,
    own_type,
    plain,
)
from mooring.drift.dependence import effective_rows
from mooring.drift.grid import (
    MAX_CATEGORIES,
    CategoricalGrid,
    Floats,
    Grid,
    NumericGrid,
    OtherGrid,
    TextGrid,
    TimestampGrid,
    category_text,
    numeric_grid,
)
from mooring.drift.kinds import Kind, Role
from mooring.drift.loose import Cells, fitted, is_loose, majority
from mooring.drift.profile import FeatureProfile, Profile, grids_digest, profile
from mooring.drift.stored import FORMAT, SINCE, dump, load, part
from mooring.drift.tensors import is_tensor, summaries

FEW_VALUES = 20
_ROWS_A_VALUE = 5
_FEW_TEXTS = 50
_TEXTS_A_ROW = 0.8
_OF_LOG = "log"
_NAMED = 3
_CELLS: dict[Kind, Cells] = {"numeric": "numbers", "timestamp": "moments", "text": "texts"}


class Feature(msgspec.Struct):
    """A column of the baseline: its grid, what the training data holds on it, and how much the model heeds it.

    `held_out` says of an output that the model had not seen the rows in training: what it predicts of rows that it
    has seen is surer than what it predicts of others.
    """

    grid: Grid
    profile: FeatureProfile
    role: Role = "input"
    importance: float | None = None
    held_out: bool = False

    @property
    def kind(self) -> Kind:
        """What sort of values it has."""
        return kind_of(self.grid)

    @property
    def in_sample(self) -> bool:
        """Whether it is what a model predicts of rows that it was trained on, or may be."""
        return self.role == "output" and not self.held_out


class PastStatistics(msgspec.Struct):
    """Statistics of a feature in past windows, taken for what is usual: an array (windows, statistics).

    `statistics` names them, each a measure and the number of windows that were merged.
    """

    statistics: list[tuple[str, int]]
    values: Floats


class HeldOut(msgspec.Struct):
    """How a model did on rows that it did not see in training: what its performance later is judged against.

    `measure` is the one that is judged, `measures` what all gave on `rows` rows, `losses` those of a sample of the
    rows (squared errors, log losses, or 1 for each error), `classes` all classes in their order where there are
    any. `about` says which rows they were.
    """

    task: Literal["regression", "classification"]
    measure: str
    measures: dict[str, float]
    losses: Floats
    rows: int
    classes: tuple[str, ...] | None = None
    about: str = ""


class Baseline(msgspec.Struct):
    """What a model was trained on, as a profile on grids of its own.

    `about` says where it comes from: the model, its version, when it was made, of how many rows. `past` has, by
    feature, statistics of past windows, where chance is to be taken from those instead of drawn. `digest` is a
    short text that names the grids: profiles on them have it, too. `performance` is how well the model did on rows
    with labels, `segments` are baselines of the rows in which a feature has one value, by feature and value.
    `weight` is the sum over rows of how many rows came in the same request; where none is given, each row came
    alone. `sample` has some of the rows, as `ReferenceRows` reads them; they are written beside it, not with it.

    >>> made = make({"x": pa.array([1.5, 2.5, None]), "c": pa.array(["a", "b", "a"])})
    >>> made.rows, {name: feature.kind for name, feature in made.features.items()}
    (3, {'x': 'numeric', 'c': 'categorical'})
    >>> made
    Baseline(3 rows, 2 features: x, c)
    >>> Baseline.from_bytes(made.to_bytes()).digest == made.digest
    True
    """

    features: dict[str, Feature]
    rows: int
    about: dict[str, str] = {}
    past: dict[str, PastStatistics] = {}
    digest: str = ""
    performance: HeldOut | None = None
    segments: dict[str, dict[str, Baseline]] = {}
    weight: int = 0
    sample: bytes = b""

    def __post_init__(self) -> None:
        """Take each row for a request of its own, unless a weight says otherwise."""
        self.weight = self.weight or self.rows

    def __repr__(self) -> str:
        """Return it in a line: its features' own are of hundreds."""
        names = [*self.features]
        shown = ", ".join([*(" ".join(one.split()) for one in names[:5]), *(["…"] if len(names) > 5 else [])])
        made = f", made {self.about['created']}" if self.about.get("created") else ""
        return f"Baseline({self.rows} rows, {len(names)} features: {shown}{made})"

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it: a line, and a table of the features."""
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{'in-sample ' if one.in_sample else ''}{one.role}</td>"
            f"<td>{one.kind}</td></tr>"
            for name, one in self.features.items()
        )
        return (
            f"<details><summary>{escape(repr(self))}</summary><table><thead><tr><th>feature</th><th>role</th>"
            f"<th>kind</th></tr></thead><tbody>{rows}</tbody></table></details>"
        )

    @property
    def grids(self) -> dict[str, Grid]:
        """The grids by feature."""
        return {name: feature.grid for name, feature in self.features.items()}

    @property
    def effective_rows(self) -> float:
        """How many independent rows tell as much: Kish's effective sample size of clusters."""
        return effective_rows(self.rows, self.weight, None)

    @property
    def of_log(self) -> bool:
        """Whether it was made of rows of the log, as windows are."""
        return _OF_LOG in self.about

    @property
    def in_sample(self) -> list[str]:
        """The outputs that are compared with earlier windows instead, as the model has seen the rows of these."""
        return [name for name, feature in self.features.items() if feature.in_sample]

    def warning(self) -> str:
        """Say which outputs are in-sample, what comes of it and what to do; '' where none is.

        >>> print(make({"p": pa.array([0.1])}, roles={"p": "output"}, held_out=False).warning()[:75])
        p is in-sample: the model was trained on the rows, so it is compared with e
        """
        names = self.in_sample
        if not names:
            return ""
        named = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        verb, pronoun = ("is", "it is") if len(names) == 1 else ("are", "they are")
        return (
            f"{named} {verb} in-sample: the model was trained on the rows, so {pronoun} compared with earlier "
            "windows of the log instead of the baseline. To compare with the baseline, give "
            "evaluation=(labels, predictions) of rows that the model was not trained on, or out-of-fold "
            "predictions with held_out=True (--held-out)"
        )

    def to_bytes(self) -> bytes:
        """Return it as bytes that `from_bytes` reads; without the sample of its rows."""
        return dump(msgspec.structs.replace(self, sample=b""), "baseline", FORMAT)

    @staticmethod
    def from_bytes(data: bytes) -> Baseline:
        """Return what was written. Raises FormatError where that is damaged or of another version.

        Earlier Mooring did not write which outputs are held out: those of the log are, of others it is not known,
        and they count as in-sample, which is what its manual had them be.
        """
        found = load(data, Baseline, "baseline", FORMAT, SINCE)
        if _OF_LOG in found.about:
            for feature in found.features.values():
                feature.held_out = feature.role == "output"
        return found


def profile_to_bytes(found: Profile) -> bytes:
    """Return a profile as bytes that `profile_from_bytes` reads."""
    return dump(found, "profile", FORMAT)


def profile_from_bytes(data: bytes) -> Profile:
    """Return a profile that was written. Raises FormatError where that is damaged or of another version."""
    return load(data, Profile, "profile", FORMAT, SINCE)


class BaselineParts(msgspec.Struct):
    """A baseline whose features are not read yet, since whoever looks at one of them needs no other."""

    features: dict[str, msgspec.Raw]
    rows: int
    about: dict[str, str] = {}
    digest: str = ""

    @staticmethod
    def from_bytes(data: bytes) -> BaselineParts:
        """Return the parts of what `Baseline.to_bytes` wrote. Raises FormatError as `Baseline.from_bytes` does.

        >>> made = make({"x": pa.array([1.5, 2.5, None]), "c": pa.array(["a", "b", "a"])})
        >>> parts = BaselineParts.from_bytes(made.to_bytes())
        >>> list(parts.features), parts.feature("x").profile.nulls, parts.feature("y")
        (['x', 'c'], 1, None)
        """
        return load(data, BaselineParts, "baseline", FORMAT, SINCE)

    def feature(self, name: str) -> Feature | None:
        """Return a feature, if it has it. Raises FormatError."""
        if name not in self.features:
            return None
        found = part(self.features[name], Feature, "baseline")
        found.held_out |= found.role == "output" and _OF_LOG in self.about
        return found


class ProfileParts(msgspec.Struct):
    """A profile whose features are not read yet."""

    digest: str
    features: dict[str, msgspec.Raw]

    @staticmethod
    def from_bytes(data: bytes) -> ProfileParts:
        """Return the parts of what `profile_to_bytes` wrote. Raises FormatError as `profile_from_bytes` does."""
        return load(data, ProfileParts, "profile", FORMAT, SINCE)

    def feature(self, name: str) -> FeatureProfile | None:
        """Return a feature's profile, if it has it. Raises FormatError."""
        return part(self.features[name], FeatureProfile, "profile") if name in self.features else None


def make(
    columns: Mapping[str, pa.Array | pa.ChunkedArray] | Iterable[tuple[str, pa.Array | pa.ChunkedArray]],
    *,
    roles: Mapping[str, Role] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    integers: Iterable[str] = (),
    singles: Iterable[str] = (),
    importance: Mapping[str, float] | None = None,
    about: Mapping[str, str] | None = None,
    held_out: bool = True,
    weight: int = 0,
) -> Baseline:
    """Return the baseline of columns, which are looked at one after the other.

    Parameters
    ----------
    columns
        Arrow columns by name, all of one length; also as an iterable, so that few need to be in memory.
    roles
        Which are predictions (`output`) or ground truth (`label`); the others are `input`.
    kinds
        What a column is, where that is not to be found out.
    integers
        Columns of floats that hold integers, as the model's signature tells.
    singles
        Columns that the model gets as float32, as its signature tells: they are compared at that precision. So are
        columns of that type.
    importance
        How much the model heeds a feature, in any unit.
    held_out
        Whether the outputs are of rows that the model did not see in training.
    weight
        The sum over rows of how many rows came in the same request; by default each row came alone.

    An integer with few values is a category, and so are texts unless nearly each is another. Of tensors their
    summaries are the features (see `mooring.drift.tensors`), unless their kind is given. Raises ValueError for a
    kind that does not suit its column.
    """
    roles, kinds, importance = roles or {}, kinds or {}, importance or {}
    integers, singles = set(integers), set(singles)
    features, rows = {}, 0
    for name, column in columns.items() if isinstance(columns, Mapping) else columns:
        for feature, values in _features(name, column, kinds.get(name)):
            grid = grid_of(values, kinds.get(feature), feature, feature in integers, feature in singles)
            [found] = profile([pa.table({"x": values})], {"x": grid}).features.values()
            role = roles.get(name, "input")
            features[feature] = Feature(grid, found, role, importance.get(name), role == "output" and held_out)
        rows = len(column)
    digest = grids_digest({name: feature.grid for name, feature in features.items()})
    return Baseline(features, rows, dict(about or {}), digest=digest, weight=weight)


def _features(
    name: str, column: pa.Array | pa.ChunkedArray, kind: Kind | None
) -> Iterator[tuple[str, pa.Array | pa.ChunkedArray]]:
    if kind is None and is_tensor(column.type):
        yield from summaries(name, column).items()
    else:
        yield name, column


def kind_of(grid: Grid) -> Kind:
    """Return what sort of values a grid is for."""
    match grid:
        case NumericGrid():
            return "numeric"
        case CategoricalGrid():
            return "categorical"
        case TimestampGrid():
            return "timestamp"
        case TextGrid():
            return "text"
        case OtherGrid():
            return "other"


def grid_of(
    column: pa.Array | pa.ChunkedArray,
    kind: Kind | None = None,
    name: str = "it",
    integer: bool = False,
    single: bool = False,
) -> Grid:
    """Return the grid of a baseline's column; what kind it is is found out unless given.

    Of a column of text that is `loose` it is the kind of most cells. A column of nulls without a type is `other`.

    >>> kind_of(grid_of(pa.array([1, 2] * 50))), kind_of(grid_of(pa.array([1, 2] * 50), "numeric"))
    ('categorical', 'numeric')
    """
    if is_loose(column) or (kind in ("numeric", "timestamp") and is_text(column.type)):
        return _of_cells(column, kind, name, single)
    column = plain(column)
    kind = kind or _kind(column, integer)
    if kind == "numeric":
        numbers = as_numbers(column)
        if numbers is None:
            raise ValueError(f"{name} can't be numeric: it is {column.type}")
        with np.errstate(over="ignore"):
            return numeric_grid(numbers.astype(np.float32 if single else own_type(column), copy=False))
    if kind == "categorical":
        return _categorical(column, name, single)
    if kind == "timestamp":
        if as_microseconds(column) is None:
            raise ValueError(f"{name} can't be timestamp: it is {column.type}")
        return TimestampGrid()
    if kind == "text":
        lengths = as_lengths(column)
        if lengths is None:
            raise ValueError(f"{name} can't be text: it is {column.type}")
        return TextGrid(numeric_grid(lengths))
    return OtherGrid()


def _of_cells(column: pa.Array | pa.ChunkedArray, kind: Kind | None, name: str, single: bool) -> Grid:
    """Return the grid of a column of text, of the kind that is given or that most of its cells have."""
    most, integer = majority(column)
    wanted = _CELLS.get(kind, most) if kind else most
    cells, odd = fitted(column, wanted)
    if kind in ("numeric", "timestamp") and odd and len(cells) == cells.null_count:
        raise ValueError(f"{name} can't be {kind}: it is text, and no cell of it is one of the {wanted}")
    if wanted == "booleans" and kind is None:
        kind = "categorical"
    names = ["false", "true"] if wanted == "booleans" else None
    grid = CategoricalGrid(names) if names else grid_of(plain(cells), kind, name, integer, single)
    if wanted in ("numbers", "booleans") and isinstance(grid, NumericGrid | CategoricalGrid):
        return msgspec.structs.replace(grid, texts=True)
    return grid


def _kind(column: pa.Array | pa.ChunkedArray, integer: bool) -> Kind:
    kind = column.type
    filled = len(column) - column.null_count
    if pa.types.is_boolean(kind):
        return "categorical"
    if is_text(kind):
        distinct = len(pc.unique(column).drop_null())
        few = distinct <= _FEW_TEXTS or distinct <= min(_TEXTS_A_ROW * filled, MAX_CATEGORIES)
        return "categorical" if few else "text"
    if pa.types.is_integer(kind) or (integer and is_number(kind)):
        distinct = len(pc.unique(column).drop_null())
        return "categorical" if distinct <= min(FEW_VALUES, filled / _ROWS_A_VALUE) else "numeric"
    if is_number(kind):
        return "numeric"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    return "other"


def _categorical(column: pa.Array | pa.ChunkedArray, name: str, single: bool) -> CategoricalGrid:
    texts = as_texts(column)
    if texts is not None:
        found = pc.unique(texts)
        if pa.types.is_dictionary(found.type):
            found = found.cast(found.type.value_type)
        names = sorted(found.drop_null().to_pylist())
        if pa.types.is_boolean(column.type):
            names = ["false", "true"]
        numbers = None
    else:
        values = as_numbers(column)
        if values is None:
            raise ValueError(f"{name} can't be categorical: it is {column.type}")
        kind = np.float32 if single else own_type(column)
        known = np.unique(values[~np.isnan(values)].astype(kind, copy=False))
        names, numbers = [category_text(value) for value in known], known
    if len(names) > MAX_CATEGORIES:
        raise ValueError(
            f"{name} has {len(names)} values, more than the {MAX_CATEGORIES} that a category may have"
        )
    return CategoricalGrid(names, numbers)
