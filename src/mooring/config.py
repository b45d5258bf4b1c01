"""Settings are read from flags, MOORING_* variables and mooring.yaml, in that order.

A setting has one name everywhere. `log_dir` would be the flag `--log-dir`, the variable `MOORING_LOG_DIR` and the
key `log_dir` of mooring.yaml, at its top or, for one model, under `models: {NAME: …}`.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
import msgspec
from msgspec import Meta

from mooring import messages
from mooring.settings import ARGV, COMMANDS, DROPPED, DURATION, GROUPS, MessageSettings, duration_text, seconds_of

logger = logging.getLogger(__name__)
_ARGUMENT = "without_flag"
Settings = TypeVar("Settings", bound=MessageSettings)
Command = Callable[..., Any]


class Flag(click.Option):
    """The flag of a setting, which is shown in the group of the class that defines the setting."""

    def __init__(self, *args: Any, group: str | None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


class SettingError(click.ClickException):
    """A setting that is missing or has a wrong value; the message says which and where it came from."""

    exit_code = 2


def options(
    settings: type[Settings], argument: str | None = None, program: str = "mooring"
) -> Callable[[Callable[..., None]], Command]:
    """Give a command a flag for every setting, and call it with the settings resolved, then its own flags.

    The setting `argument` may be given without its flag; the command's messages are `program`'s. Raises
    SettingError (exit code 2) where a setting is missing or wrong.
    """

    def decorate(command: Callable[..., None]) -> Command:
        @functools.wraps(command)
        def run(**flags: Any) -> None:
            without_flag = flags.pop(_ARGUMENT, None)
            if argument is not None and without_flag is not None:
                flags[argument] = without_flag
            own = {name: flags.pop(name) for name in list(flags) if name not in settings.__struct_fields__}
            found = load(settings, flags)
            messages.set_up(found.message_format, found.message_level, program)
            command(found, **own)

        decorated: Command = run
        for option in reversed(_flags(settings)):
            decorated = option(decorated)
        if argument is None:
            return decorated
        return click.argument(_ARGUMENT, metavar=f"[{argument.upper()}]", required=False)(decorated)

    return decorate


def load(settings: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Return the settings of this process: what is given, else its variables, else mooring.yaml, else defaults."""
    return resolve(settings, given, os.environ, _read_yaml(Path("mooring.yaml")))


def resolve(
    settings: type[Settings],
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    yaml: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings, each from the first of flag, variable and file that gives it.

    >>> from mooring.settings import ProxySettings
    >>> resolve(ProxySettings, {"upstream": "http://localhost:5002"}, {"MOORING_PORT": "6000"}).port
    6000
    """
    environ, yaml = environ or {}, dict(yaml or {})
    models = yaml.pop("models", None) or {}
    hints = get_type_hints(settings, include_extras=True)
    given: dict[str, tuple[Any, str]] = {}
    only = next(iter(models)) if len(models) == 1 else None
    model = flags.get("model") or environ.get("MOORING_MODEL") or yaml.get("model") or only
    named = _model_name(model)
    if model is not None and model == only:
        given["model"] = model, "models in mooring.yaml"
    for keys, where in ((yaml, ""), (models.get(named) or {}, f" of {named}")):
        for name, value in _flat(keys):
            if name in DROPPED:
                _say_dropped(name, f"{name}{where} in mooring.yaml")
                continue
            if not any(name in command.__struct_fields__ for command in COMMANDS.values()):
                raise SettingError(f"mooring.yaml has a key{where} that is no setting: {name}.")
            given[name] = value, f"{name}{where} in mooring.yaml"
    for name in DROPPED:
        if (variable := f"MOORING_{name.upper()}") in environ and _concerns(settings, name):
            _say_dropped(name, variable)
    for name in settings.__struct_fields__:
        if (variable := f"MOORING_{name.upper()}") in environ:
            value = environ[variable]
            given[name] = _split(value) if _is_tuple(hints[name]) else value, variable
        if flags.get(name) not in (None, ()):
            given[name] = flags[name], _flag(name)
    values = {name: _convert(value, hints[name], where) for name, (value, where) in given.items() if name in hints}
    for field in msgspec.structs.fields(settings):
        if field.required and field.name not in values:
            raise SettingError(
                f"{_flag(field.name)} is missing. Give it, or set MOORING_{field.name.upper()}, "
                f"or {field.name} in mooring.yaml."
            )
    return settings(**values)


def _concerns(settings: type[msgspec.Struct], dropped: str) -> bool:
    """Whether a command has settings beside which one stood that is no more."""
    return any(name.startswith(f"{dropped.partition('_')[0]}_") for name in settings.__struct_fields__)


def _say_dropped(name: str, where: str) -> None:
    logger.warning("%s changes nothing any more: %s", where, DROPPED[name], extra={"about": name})


def _flat(keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings by name: `retrain: {cooldown: 1d}` is another way to write `retrain_cooldown: 1d`.

    >>> dict(_flat({"port": 5001, "retrain": {"cooldown": "1d"}, "threshold": {"psi": 0.2}}))
    {'port': 5001, 'retrain_cooldown': '1d', 'threshold': {'psi': 0.2}}
    """
    for name, value in keys.items():
        if name in GROUPS and isinstance(value, dict):
            yield from ((f"{name}_{key}", one) for key, one in value.items())
        else:
            yield name, value


def _model_name(model: str | None) -> str | None:
    """Return the name in a model's URI, or what is a name already."""
    if model is None or not model.startswith("models:/"):
        return model
    return re.split("[@/]", model.removeprefix("models:/"))[0]


def _is_tuple(hint: Any) -> bool:
    return get_origin(_plain(hint)[0]) is tuple


def _is_duration(hint: Any) -> bool:
    return _is(DURATION, hint)


def _is(unit: dict[str, str], hint: Any) -> bool:
    metas = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return any(meta.extra == unit for meta in metas if isinstance(meta, Meta))


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    if _is_tuple(hint) and isinstance(value, dict):
        value = [f"{key}={one}" for key, one in value.items()]
    if _is_tuple(hint) and isinstance(value, str):
        value = [value]
    if isinstance(value, list) and _is(ARGV, hint):
        value = shlex.join(map(str, value))
    if isinstance(value, str) and _is_duration(hint):
        value = seconds_of(value)
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(f"{where}: {error} (got {value!r}).") from None


def _flags(settings: type[msgspec.Struct]) -> list[Callable[[Command], Command]]:
    hints = get_type_hints(settings, include_extras=True)
    flags: list[Callable[[Command], Command]] = []
    # Those of a command itself come first, then those of each class that it extends.
    classes = [one for one in settings.__mro__ if issubclass(one, msgspec.Struct) and one is not msgspec.Struct]
    owners = {name: one for one in classes for name in one.__struct_fields__}
    fields = msgspec.structs.fields(settings)
    for field in sorted(fields, key=lambda one: (not one.required, classes.index(owners[one.name]))):
        plain, help_text = _plain(hints[field.name])
        flag = _flag(field.name)
        extra: dict[str, Any] = {"default": None}
        if plain is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        elif get_origin(plain) is Literal:
            extra["type"] = click.Choice([str(choice) for choice in get_args(plain)])
        elif get_origin(plain) is tuple:
            extra = {"multiple": True, "metavar": "TEXT"}
        else:
            metavars = {int: "N", float: "TIME" if _is_duration(hints[field.name]) else "NUMBER"}
            extra["metavar"] = metavars.get(plain, field.name.split("_")[-1].upper())
        if field.required:
            help_text = f"{help_text}  [required]"
        elif field.default not in (None, ()):
            shown = {True: "on", False: "off"}[field.default] if plain is bool else field.default
            shown = duration_text(float(shown)) if _is_duration(hints[field.name]) else shown
            shown = ", ".join(shown) if isinstance(shown, tuple) else shown
            help_text = f"{help_text}  [default: {shown}]"
        extra["group"] = getattr(owners[field.name], "group", None)
        names = [flag, *_aliases(hints[field.name]), field.name]
        flags.append(click.option(*names, cls=Flag, help=help_text, **extra))
    gone = [name for name in DROPPED if _concerns(settings, name)]
    return flags + [
        click.option(_flag(name), hidden=True, expose_value=False, callback=_dropped_flag) for name in gone
    ]


def _dropped_flag(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and parameter.name is not None:
        _say_dropped(parameter.name, _flag(parameter.name))


def _aliases(hint: Any) -> list[str]:
    """Return the shorter flags that a setting has in its own command, where its name has that in front."""
    metas = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    extras = [meta.extra or {} for meta in metas if isinstance(meta, Meta)]
    return [extra["alias"] for extra in extras if "alias" in extra]


def _plain(hint: Any) -> tuple[Any, str]:
    """Return the type behind Annotated and `| None`, and the description."""
    description = ""
    while True:
        if get_origin(hint) is Annotated:
            hint, *metas = get_args(hint)
            description = next((meta.description for meta in metas if meta.description), description)
        elif get_origin(hint) in (Union, types.UnionType):
            hint = next(part for part in get_args(hint) if part is not type(None))
        else:
            return hint, description


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingError(f"{path} must hold keys and values, such as `port: 5001`.")
    models = content.get("models") or {}
    if not isinstance(models, dict) or not all(isinstance(keys, dict | None) for keys in models.values()):
        raise SettingError(f"{path}: models must hold names, and under each name keys and values.")
    return content
