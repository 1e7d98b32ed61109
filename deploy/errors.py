"""The one error of the launcher."""


class ServeError(Exception):
    """The service cannot start or go on; the message tells the reader what to do."""
