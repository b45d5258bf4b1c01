"""Nothing but the reading, in the batches that Mooring reads."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
from common import Run, measure


def prepare(reference: str) -> Run:
    pa.set_cpu_count(1)
    names = pq.read_schema(reference).names

    def run(current: str) -> object:
        file = pq.ParquetFile(current, pre_buffer=False, buffer_size=1 << 16)
        return sum(batch.num_rows for batch in file.iter_batches(65_536, columns=names, use_threads=False))

    return run


measure(prepare)
