"""Every error this package raises on purpose.

::

    CodeVisionError
    ├── InputError          a question or an image that cannot be taken
    │   └── ImageError      missing, empty, not an image, too large, truncated
    ├── KernelError         the kernel could not be started or brought back
    │   └── PoolExhausted   a pool had no kernel free in time, or too many wait for one
    ├── ModelError          the model could not be asked
    │   ├── ModelUnreachable    no connection, or it closed
    │   ├── ModelTimeout        no answer in time
    │   ├── ModelRefused        4xx: key, rate limit, bad request
    │   └── ModelFailed         5xx, or an answer that is not one
    ├── TrajectoryError     a notebook or journal that cannot be read
    ├── StorageError        the notebook cannot be written (path, space, in use)
    ├── SigningError        Sigstore could not be asked, or did not sign
    ├── LiveError           a command that a live run cannot follow now
    │   └── NoSuchRun           no run has this id
    └── LineageError        a box cannot be mapped: the image's origin is unknown

Each message names the value, the limit and the remedy. What goes wrong inside the model's code is never an exception
here: it is an observation (see `types.Status`).
"""


class CodeVisionError(Exception):
    """Base of all errors of this package."""


class InputError(CodeVisionError, ValueError):
    """A question or an argument that cannot be taken."""


class ImageError(InputError):
    """An image that cannot be taken: missing, empty, not an image, truncated, or over the pixel limit."""


class KernelError(CodeVisionError, RuntimeError):
    """The kernel could not be started or brought back."""


class PoolExhausted(KernelError):
    """A pool had no kernel free in time, or too many callers wait for one. Asking again later may help."""


class ModelError(CodeVisionError, RuntimeError):
    """The model could not be asked.

    Attributes:
        status: HTTP status, or None where there was none.
        retryable: whether asking again later may help.
    """

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class ModelUnreachable(ModelError):
    """No connection to the model server, or it was closed in the middle of an answer."""


class ModelTimeout(ModelError):
    """The model server did not answer in time."""


class ModelRefused(ModelError):
    """The server refused the request (4xx): key, rate limit, unknown model, request too long."""


class ModelFailed(ModelError):
    """The server failed (5xx) or answered with something that is no completion."""


class TrajectoryError(CodeVisionError, ValueError):
    """A notebook or a journal that is not a readable trajectory."""


class StorageError(CodeVisionError, OSError):
    """The notebook cannot be written: path, permission, disk space, or in use by another run."""


class LineageError(CodeVisionError, LookupError):
    """A box cannot be mapped back because the image's geometric origin is unknown."""


class SigningError(CodeVisionError, RuntimeError):
    """Sigstore could not be asked, did not sign, or gave a signature that does not hold."""


class LiveError(CodeVisionError, RuntimeError):
    """A live run cannot follow this command in the state it is in."""


class NoSuchRun(LiveError):
    """No run, live or saved, has this id."""
