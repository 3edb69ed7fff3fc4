"""Looks at a data set before a figure from it is trusted: `check_data`."""

from agp_edge.data_check.check import DataCheck, check_data
from agp_edge.data_check.findings import Finding

__all__ = ["DataCheck", "Finding", "check_data"]
