"""Invalid input, shown to the user without a traceback."""


class InputError(ValueError):
    """Invalid input.

    The message names the value, what would be accepted and what to do next. Commands print it
    without a traceback and exit with status 2.
    """


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that is not an unsigned 64-bit integer."""
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must be in 0 to 2**64 - 1, got {seed}")
