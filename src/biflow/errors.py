"""The exception for bad input."""


class UserError(ValueError):
    """Bad input, in one sentence: what was wrong, where, and how to fix it.

    The command line prints it and exits with 2. `setting` is the name of the setting that was wrong, which the command
    line shows as a flag.
    """

    def __init__(self, message: str, *, setting: str | None = None):
        super().__init__(message)
        self.setting = setting
