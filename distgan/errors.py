"""What a user can mend: each error is one clear line and an exit status, never a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The message names the thing, the value found and the way out."""

    exit_status = 1
    everywhere = False
    """Whether every process meets it alike, so that one of them need tell it."""
    goes_on = True
    """Whether the same command, started again, comes further once what was wrong is mended."""


class ConfigError(UserError):
    """A config that cannot be run, or a command line that cannot be understood."""

    exit_status = 2
    everywhere = True


class DataError(UserError):
    """Pictures or shards that are missing, damaged, or not what the config says."""

    exit_status = 2
    everywhere = True


class ReadError(DataError):
    """Data that cannot be read while training; only the process whose batch it is in meets it."""

    everywhere = False


class PictureError(ReadError):
    """One picture that cannot be read, in a shard that can."""


class Diverged(UserError):
    """Losses that are not finite, as every process sees them."""

    everywhere = True
    goes_on = False


class RunFolderError(UserError):
    """A run folder that cannot be written, as every process finds before it starts."""

    everywhere = True
