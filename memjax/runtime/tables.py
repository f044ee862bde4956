"""Parquet tables that say what their columns mean."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from memjax.errors import InputError
from memjax.runtime.workdir import write_atomically


def write_table(
    path: epath.PathLike,
    table: pd.DataFrame,
    columns: Mapping[str, str],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a Parquet file atomically, column meanings in its schema.

    Args:
      path: the file.
      table: what to write; no index is kept.
      columns: what each column means, with units; every column must be there.
      metadata: JSON values to keep beside the table.

    Raises:
      KeyError: for a column without a meaning.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    described = _described(arrow.schema, columns, metadata)
    arrow = arrow.cast(described.remove_metadata()).replace_schema_metadata(described.metadata)
    arrow = pa.Table.from_arrays(arrow.columns, schema=described)

    # A dictionary of values that are there once costs half of the file and a third of the time.
    repeated = [name for name in arrow.column_names if name not in ("index", "example_id")]

    def write(name: Any) -> None:
        with epath.Path(name).open("wb") as file:
            pq.write_table(
                arrow, file, compression="zstd", use_dictionary=repeated, write_page_checksum=True
            )

    write_atomically(path, write)


def _described(
    schema: pa.Schema, columns: Mapping[str, str], metadata: Mapping[str, Any] | None
) -> pa.Schema:
    fields = [field.with_metadata({"description": columns[field.name]}) for field in schema]
    return pa.schema(fields, metadata={"memjax": json.dumps(dict(metadata or {}))})


def join_tables(
    path: epath.PathLike,
    parts: Sequence[epath.Path],
    columns: Mapping[str, str],
    metadata: Mapping[str, Any],
    by: str | None = None,
) -> None:
    """Writes the rows of several tables as one, atomically; a row group at a time is in memory.

    Args:
      path: the file; it may be one of the parts.
      parts: tables with the same columns, in their order.
      columns: as of `write_table`.
      metadata: likewise.
      by: an integer column to sort by, rows of equal values staying in their order; None: as is.
    """
    with contextlib.ExitStack() as opened:
        files = []
        for part in parts:
            with _clear_errors(part):
                file = opened.enter_context(part.open("rb"))
                files.append((part, pq.ParquetFile(file, page_checksum_verification=True)))
        filled = [file for _, file in files if file.metadata.num_rows] or [files[0][1]]
        # A column without any value in one part has no type there.
        schemas = [file.schema_arrow.remove_metadata() for file in filled]
        schemas = [pa.schema([field.remove_metadata() for field in schema]) for schema in schemas]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        described = _described(schema, columns, metadata)

        def write(name: Any) -> None:
            settings = {"compression": "zstd", "write_page_checksum": True}
            with (
                epath.Path(name).open("wb") as out,
                pq.ParquetWriter(out, described, **settings) as writer,
            ):
                for group in _groups(files, by):
                    if group.num_rows:
                        cast = group.replace_schema_metadata(None).select(schema.names).cast(schema)
                        writer.write_table(pa.Table.from_arrays(cast.columns, schema=described))

        write_atomically(path, write)


def _groups(files: list[tuple[epath.Path, pq.ParquetFile]], by: str | None) -> Iterator[pa.Table]:
    """Yields the row groups, or with `by` for every value the rows that have it."""
    found: dict[int | None, list[tuple[int, int]]] = {}
    for place, (part, file) in enumerate(files):
        for group in range(file.num_row_groups):
            inside: list[Any] = [None]
            if by:
                with _clear_errors(part):
                    inside = file.read_row_group(group, columns=[by])[by].unique().to_pylist()
            for value in inside:
                found.setdefault(value, []).append((place, group))
    values = sorted(found) if by else list(found)  # type: ignore[type-var]
    for value in values:
        for place, group in found[value]:
            part, file = files[place]
            with _clear_errors(part):
                table = file.read_row_group(group)
            yield table.filter(pc.equal(table[by], value)) if by else table


@contextlib.contextmanager
def _clear_errors(path: epath.PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({words}); delete it, and it is made again") from error


def num_rows(path: epath.PathLike) -> int:
    """Returns how many rows a table has, without reading them."""
    with _clear_errors(path), epath.Path(path).open("rb") as file:
        return pq.read_metadata(file).num_rows


def steps_of(path: epath.PathLike) -> set[int]:
    """Returns the values of a table's column `step`."""
    with _clear_errors(path), epath.Path(path).open("rb") as file:
        table = pq.read_table(file, columns=["step"], page_checksum_verification=True)
    return set(table["step"].unique().to_pylist())


def read_table(path: epath.PathLike) -> pd.DataFrame:
    """Reads a Parquet table; `attrs` holds its columns' meanings and its metadata."""
    with _clear_errors(path), epath.Path(path).open("rb") as file:
        arrow = pq.read_table(file, page_checksum_verification=True)
    frame = arrow.to_pandas()
    frame.attrs["columns"] = {
        field.name: (field.metadata or {}).get(b"description", b"").decode()
        for field in arrow.schema
    }
    frame.attrs["metadata"] = read_metadata(arrow.schema)
    return frame


def read_metadata(schema: pa.Schema) -> dict[str, Any]:
    """Returns the JSON values kept beside a table."""
    return json.loads((schema.metadata or {}).get(b"memjax", b"{}"))
