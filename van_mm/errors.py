"""The error that ends a tool with one message instead of a traceback."""


class UserError(Exception):
    """Something the user can mend; the message names the cause and the remedy."""
