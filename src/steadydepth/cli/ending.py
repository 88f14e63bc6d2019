"""How a command ends that is asked to from outside."""

import signal
import threading

# The last is of Windows: Ctrl-Break, and a console that is closed.
_POLITE = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


def end_as_by_the_keyboard() -> None:
    """A polite kill, or a terminal that is closed, ends a command as Ctrl-C does, so that nothing is left half-made."""
    if threading.current_thread() is threading.main_thread():  # signals are for that alone
        for number in _POLITE:
            if signal.getsignal(number) == signal.SIG_DFL:  # under nohup it is ignored
                signal.signal(number, signal.default_int_handler)


def end_as_usual() -> None:
    """Take that back, for what ends by rules of its own: a server, whose end by SIGTERM a service manager looks for."""
    if threading.current_thread() is threading.main_thread():
        for number in _POLITE:
            if signal.getsignal(number) == signal.default_int_handler:
                signal.signal(number, signal.SIG_DFL)
