"""`index.parquet`: the place of every clip of a prepared folder. Needs neither torch nor librosa: readers start quickly."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from momu_dist.errors import DataError

INDEX = "index.parquet"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("group_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("shard", pa.string(), metadata={"unit": "path in the prepared folder"}),
        pa.field("row_group", pa.int32()),
        pa.field("row", pa.int32(), metadata={"unit": "line within its row group"}),
        pa.field("length", pa.int32(), metadata={"unit": "frames at 62.5 Hz"}),
    ]
)


def load_index(root: str | Path) -> pa.Table:
    """The index (`INDEX_SCHEMA`) of a folder of shards, in their order. DataError if missing, torn or another table."""
    path = Path(root) / INDEX
    if not path.is_file():
        raise DataError(nothing_there(Path(root), INDEX))
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}); {how_to_mend(path)}.") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise DataError(
            f"{path} is another table (columns {', '.join(table.column_names)}), expected an index with "
            f"{', '.join(INDEX_SCHEMA.names)}; {how_to_mend(path)}."
        )
    return table


def how_to_mend(path: Path) -> str:
    """What to do about a damaged file of a folder of shards: prepared ones hold a manifest, latents do not."""
    root = path.parent if path.name == INDEX else path.parent.parent
    if (root / "latents.json").is_file():
        return f"delete {path} and start the run again: what is missing of the latents is encoded again"
    return f"delete {path} and run the same `momu prepare` command again, which makes only what is missing"


def nothing_there(root: Path, missing: str) -> str:
    """The sentence for a folder that nothing was prepared into."""
    return (
        f"no prepared data at {root} ({missing} is missing); correct the path, or prepare data there first "
        "(`momu prepare --help`)."
    )
