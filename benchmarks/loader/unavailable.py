"""The one exception of this package."""


class Unavailable(Exception):
    """A contender has nothing to set against a case; the message says why."""
