"""`python -m hanse_server` runs `hanse server`; `up --detach` starts its process this way."""

from hanse_common.cli import guarded
from hanse_server.cli import app

guarded(app)
