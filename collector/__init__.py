"""Async AWS inventory: SageMaker training jobs as NDJSON."""

__version__ = "0.1.0"
