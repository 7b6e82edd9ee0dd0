"""`python -m hanse_server`: `hanse server`, for a process that starts itself again."""

from hanse_common.cli import guarded
from hanse_server.cli import app

guarded(app)
