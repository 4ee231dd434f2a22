"""The one exception that means: the input was wrong, here is how to mend it."""


class UserError(Exception):
    """Bad input, in one sentence: what was wrong, where, and how to mend it. The CLI prints it and exits with 2."""
