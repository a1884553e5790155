"""What a batch says: tokens and mask, labels, predictions, and which rows of a site belong to what."""

from lightning_interp.batches.own_data import OwnData
from lightning_interp.batches.predictions import PredictedRows, PredictionRecorder, Predictions
from lightning_interp.batches.reader import BatchReader, ReadBatch
from lightning_interp.batches.site_rows import SiteReader, SiteRows

__all__ = [
    "BatchReader",
    "ReadBatch",
    "OwnData",
    "PredictedRows",
    "PredictionRecorder",
    "Predictions",
    "SiteReader",
    "SiteRows",
]
