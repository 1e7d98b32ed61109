"""`python -m client` is `carid`, where that is not installed."""

from client.cli import app

app(prog_name="carid")
