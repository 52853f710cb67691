"""What a user can mend."""


class UserError(Exception):
    """A fault in what the user gave: a file, a setting, a store. The message says what is wrong and what to do.

    Every command prints it as a sentence, without a traceback, and ends with status 1.
    """


class NotYet(UserError):
    """Something that another task makes is still missing; the same command again goes on.

    Every command prints it as a sentence, and ends with status 75 (EX_TEMPFAIL: try again later).
    """
