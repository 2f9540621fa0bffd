"""Data sets and their versions."""

from datasets_app.models.datasets import Dataset, DatasetVersion, VersionState

__all__ = ["Dataset", "DatasetVersion", "VersionState"]
