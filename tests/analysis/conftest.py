"""The sweep folders that the report is tested on."""

from tests.report.conftest import folder_of, reported, view_of

__all__ = ["folder_of", "reported", "view_of"]
