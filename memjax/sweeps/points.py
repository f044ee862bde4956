"""A sweep file: a function `get_points(variant)` that yields named configs; read and checked."""

import collections
import importlib.util
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from memjax.config import Config, flat_values, nearest, resolve, with_values
from memjax.config_effects import set_fields, without_effect
from memjax.errors import InputError
from memjax.located import located

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*")


class Point(NamedTuple):
    """One run of a sweep, as a sweep file yields it.

    Attributes:
      name: of its folder and its rows; letters, digits and `_ . = + -`.
      factors: what this point is among the others: {"width": 64, "level": 0.5}. The same names at
        every point; they become columns of the table.
      config: whole.
    """

    name: str
    factors: Mapping[str, Any]
    config: ml_collections.ConfigDict


class Sweep(NamedTuple):
    """A sweep file that was read, every point checked.

    Attributes:
      points: as the file yields them.
      configs: of the points, checked and frozen.
      get_tables: from the table of results to tables of `memjax.experiments` by experiment.
    """

    points: tuple[Point, ...]
    configs: tuple[Config, ...]
    get_tables: Callable[..., Mapping[str, Any]] | None = None


def load_sweep(
    path: str, shipped: pathlib.Path, data_dir: str | None = None, tensorboard: bool = False
) -> Sweep:
    """Reads a sweep file.

    The file defines `get_points(variant)`, and may define `get_tables(results)`: from the table of
    results to a dict {name of an experiment: its table}, which are saved and drawn.

    Args:
      path: FILE.py or FILE.py:VARIANT.
      shipped: where a bare name or configs/sweeps/NAME.py may lie as well.
      data_dir: in place of every point's `dataset.data_dir`.
      tensorboard: whether every point writes TensorBoard scalars, whatever its config says.

    Returns:
      The checked sweep.

    Raises:
      InputError: if there is no such file, it fails, or a point is not sound.
    """
    name, _, variant = path.partition(":")
    file = _find(name, shipped)
    module = _import(file)
    get_points = getattr(module, "get_points", None)
    if not callable(get_points):
        raise InputError(f"--sweep={path}: must define a function get_points(variant)")
    try:
        points = tuple(get_points(variant))
    except InputError:
        raise
    except Exception as error:  # the file is the user's code
        words = first_line(error)
        raise InputError(f"--sweep={path}: get_points failed: {words}") from error
    configs = check_points(points, path)
    forced: dict[str, Any] = {} if data_dir is None else {"dataset.data_dir": data_dir}
    if tensorboard:
        forced["run.tensorboard"] = True
    folder = file.absolute().parent
    configs = tuple(located(with_values(config, forced), folder) for config in configs)
    return Sweep(points, configs, getattr(module, "get_tables", None))


def check_points(points: tuple[Point, ...], path: str) -> tuple[Config, ...]:
    """Returns the checked configs of all points.

    Raises:
      InputError: if there are none, two have one name, factors differ in their names or types, a
        config is not sound, a field that was set has an effect at no point, or ensembles share
        members; it names the point.

    Example:
      >>> from memjax.config import default_config
      >>> check_points((Point("a", {}, default_config()),), "sweep.py")[0].seed
      0
    """
    if not points:
        raise InputError(f"--sweep={path}: yields no points")
    names: set[str] = set()
    configs = []
    for point in points:
        if not isinstance(point, Point):
            raise InputError(f"--sweep={path}: yields {type(point).__name__}; must be Point")
        where = f"--sweep={path}: point {point.name!r}"
        if not isinstance(point.name, str) or not _NAME.fullmatch(point.name):
            raise InputError(f"{where}: a name has letters, digits and _ . = + - only")
        if point.name in names:
            raise InputError(f"{where}: there are two of this name")
        names.add(point.name)
        if set(point.factors) != set(points[0].factors):
            raise InputError(
                f"{where}: has factors {list(point.factors)}, point {points[0].name!r} "
                f"{list(points[0].factors)}; must be the same"
            )
        for factor, value in point.factors.items():
            if not isinstance(value, str | bool | int | float):
                raise InputError(f"{where}: factor {factor}={value!r}: must be text or a number")
        try:
            configs.append(resolve(point.config, check_effects=False))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    _check_factors(points, path)
    _check_effects(points, configs, path)
    _check_members(points, configs, path)
    return tuple(configs)


def _check_factors(points: Sequence[Point], path: str) -> None:
    """Raises InputError for a factor that is no column of one type, which Parquet asks for."""
    for factor, first in points[0].factors.items():
        for point in points:
            value = point.factors[factor]
            if _kind(value) != _kind(first):
                raise InputError(
                    f"--sweep={path}: point {point.name!r}: factor {factor}={value!r} is "
                    f"{_kind(value)}, that of point {points[0].name!r} is {first!r}; must be text, "
                    "or a number, or a boolean at all points"
                )


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "a boolean", int | float: "a number"}
    return next(words for kind, words in kinds.items() if isinstance(value, kind))


def _check_effects(points: Sequence[Point], configs: Sequence[Config], path: str) -> None:
    """Raises InputError for a field that was set and has an effect at none of the points.

    One point alone may have it: the radius of adversarial training where its weight goes from 0 up.
    """
    defaults = flat_values(Config())
    refused: dict[str, str] = {}
    effective: set[str] = set()
    for point, config in zip(points, configs, strict=True):
        values = flat_values(config)
        lines = without_effect(values, defaults)
        for name in set_fields(values, defaults):
            if name in lines:
                refused.setdefault(name, f"--sweep={path}: point {point.name!r}: {lines[name]}")
            else:
                effective.add(name)
    for name, line in refused.items():
        if name not in effective:
            raise InputError(f"{line}; so at every point where it is set")


def _check_members(points: Sequence[Point], configs: Sequence[Config], path: str) -> None:
    """Raises InputError if ensembles of different seeds share members."""
    alike = collections.defaultdict(list)
    for point, config in zip(points, configs, strict=True):
        size = config.ensemble.size
        if size == 1:
            continue
        # Noise of another seed does not make other networks of them.
        science = config.science().items()
        kept = {k: v for k, v in science if k not in ("seed", "corruption.seed")}
        alike[size, json.dumps(kept, sort_keys=True)].append((config.seed, point.name))
    for (size, _), found in alike.items():
        for (seed, name), (later, other) in itertools.pairwise(sorted(found)):
            if 0 < later - seed < size:
                raise InputError(
                    f"--sweep={path}: points {name!r} and {other!r}: share members: "
                    f"config.ensemble.size={size} members of config.seed={seed} have the seeds "
                    f"{seed} to {seed + size - 1}, and the other's begin with {later}; let the "
                    f"seeds differ by {size}"
                )


def sweep_names(folder: pathlib.Path) -> list[str]:
    """Returns the shipped sweep files."""
    return sorted(p.name for p in folder.glob("*.py") if p.name != "__init__.py")


def _find(name: str, shipped: pathlib.Path) -> pathlib.Path:
    candidates = [pathlib.Path(name)]
    if name.removeprefix("configs/sweeps/").count("/") == 0:
        candidates.append(shipped / pathlib.Path(name).name)
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate
    known = [f"configs/sweeps/{found}" for found in sweep_names(shipped)]
    raise InputError(f"--sweep={name}: no such sweep file; {nearest(name, known)}")


def _import(path: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"memjax_sweep_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's code
        raise InputError(f"--sweep={path}: {first_line(error)}") from error
    return module


def first_line(error: Exception) -> str:
    """Returns what an error of the user's code says, in one line."""
    lines: Iterator[str] = iter(str(error).strip().splitlines())
    return f"{type(error).__name__}: {next(lines, '')}"
