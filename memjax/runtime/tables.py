"""Parquet tables that say what their columns mean."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
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
    fields = [field.with_metadata({"description": columns[field.name]}) for field in arrow.schema]
    described = pa.schema(fields, metadata={"memjax": json.dumps(dict(metadata or {}))})
    arrow = arrow.cast(described.remove_metadata()).replace_schema_metadata(described.metadata)
    arrow = pa.Table.from_arrays(arrow.columns, schema=described)

    def write(name: Any) -> None:
        with epath.Path(name).open("wb") as file:
            pq.write_table(arrow, file, compression="zstd", write_page_checksum=True)

    write_atomically(path, write)


def read_table(path: epath.PathLike) -> pd.DataFrame:
    """Reads a Parquet table; `attrs` holds its columns' meanings and its metadata."""
    try:
        with epath.Path(path).open("rb") as file:
            arrow = pq.read_table(file, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({words}); delete it, and it is made again") from error
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
