"""The one exception that is the user's to mend. Apart from the other nouns, so that `--help` needs no torch."""


class InputError(ValueError):
    """The user's mistake, in one message that names the file or value, the rule and the way out; the CLI exits 2."""
