"""The HTML page about a model: one file that needs no network, no server and no other file."""

from agp_edge.report.page import write_report

__all__ = ["write_report"]
