"""Rows that are read in parts: the first pass over Parquet, an evaluation from its copy and from a mapped file."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

import softfast
from softfast.sources.parts import PartedSource
from softfast.sources.streamed import StreamedParts

from .common import classification


class Streamed:
    params = (["parquet", "npy"],)
    param_names = ("file",)

    def setup(self, file):
        X, y, self.coef, self.intercept = classification(500_000, 54, 7, "float32")
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        if file == "parquet":
            columns = {f"f{j}": X[:, j] for j in range(54)}
            parquet.write_table(pa.table({**columns, "label": y}), path / "rows.parquet")
            self.open = lambda: softfast.from_parquet(path, target="label", cache=path)
        else:
            np.save(path / "X.npy", X)
            self.open = lambda: softfast.from_npy(path / "X.npy", y)
        self.rows = self.open()
        self.source = PartedSource(StreamedParts(self.rows, None, None))

    def teardown(self, file):
        self.rows.close()
        self.folder.cleanup()

    def time_first_pass(self, file):
        with self.open() as rows:
            rows.survey()

    def time_loss_gradient(self, file):
        self.source.loss_gradient(self.coef, self.intercept)
