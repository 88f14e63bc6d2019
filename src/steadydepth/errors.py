"""The one exception that the user can fix. Apart from the other types, so that `--help` needs no torch."""


class InputError(ValueError):
    """The user's mistake, in one message that names the file or value, the rule and the way out; the CLI exits 2."""
