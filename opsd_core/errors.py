"""Every error a user of opsd can meet.

    OpsdError
    ├── ConfigError    (ValueError)      a setting is unknown, out of bounds or contradicts another
    ├── DataError      (ValueError)      a dataset, a row or a prompt cannot be used
    ├── ModelError     (ValueError)      weights, tokenizer or template cannot be used
    ├── IntegrityError (OSError)         stored bytes are missing, torn or not what their manifest says
    ├── ServiceError   (ConnectionError) Prefect, MLflow or the object store does not answer or refuses
    │   ├── BusyError                    another run holds what this one needs
    │   └── RefusedError                 it answers and says no, so that asking again is no use
    └── TrainingError  (RuntimeError)    training cannot continue (non-finite loss, no signal)
        └── AlarmError                   a monitor passed its limit; the campaign may continue with a remedy

A message says what is wrong, the value, the rule, the likely cause, and the field to change.
"""

MAX_SAID = 4000
"""Characters of a message."""


class OpsdError(Exception):
    """Base of all errors that opsd raises on purpose. What is said of overlong input is cut."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}... ({len(text):,} characters)"


class ConfigError(OpsdError, ValueError):
    """A setting is unknown, out of bounds or contradicts another one."""


class DataError(OpsdError, ValueError):
    """A dataset, a row or a prompt cannot be used."""


class ModelError(OpsdError, ValueError):
    """Weights, a tokenizer or a chat template cannot be used."""


class IntegrityError(OpsdError, OSError):
    """Stored bytes are missing, torn or differ from what their manifest promises."""


class ServiceError(OpsdError, ConnectionError):
    """Prefect, MLflow or the object store does not answer, or refuses the credentials."""


class RefusedError(ServiceError):
    """A service answers and says no to what is asked: an absent version, a malformed name. Never tried again."""


class BusyError(ServiceError):
    """Another run holds what this one needs; the message says who and until when."""


class TrainingError(OpsdError, RuntimeError):
    """Training cannot continue: non-finite numbers or no signal."""


class AlarmError(TrainingError):
    """A monitor passed its limit: the iteration stops, what it made is kept."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message, names)  # both in args, so that the error survives pickling
        self.names = names

    def __str__(self) -> str:
        return self.args[0]
