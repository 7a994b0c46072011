"""The one exception that people meet: a wrong input, said in one line."""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line. The command line prints it and exits with code 2."""


class MissingTool(UserError):  # noqa: N818 (the name says it)
    """A program that is needed for this is not on the machine."""
