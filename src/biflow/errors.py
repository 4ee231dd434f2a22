"""The one exception that means: the input was wrong, and this is how to correct it."""


class UserError(ValueError):
    """Bad input, described in one sentence: what was wrong, where, and how to correct it.

    Args:
        message: the sentence. It never names a flag of the command line.
        setting: the name of the setting that was wrong, such as "first". The command line shows it as a flag.
    """

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting
