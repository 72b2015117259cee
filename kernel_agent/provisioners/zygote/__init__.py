"""A fork server ("zygote"): kernels as forks of one warm parent process, `Session(provisioner="codevision-fork")`.

::

    host process                    parent (server.py)                  kernel (warm_app.py)
    provisioner.py  asks for        holds ipykernel's shell, NumPy,     a fork: new session, streams, environment,
    parents.py      one parent per  Pillow, OpenCV and pyplot (warm.py), sockets and threads; reads its own
    parent.py       environment     one thread, no kernel's key          connection file

Guarantees: what runs in a forked kernel sees what `codevision-local` gives (settings, sys.path, sys.argv, environment,
working directory, log, process group, exit status), except that the libraries above are already in `sys.modules`; the
random states of `random` and `numpy.random` are fresh in each; no descriptor but 0, 1, 2 is inherited; the parent never
reads a connection file. When the host dies, the parent kills every kernel's process group and goes; when the parent
dies, the kernel gets SIGKILL from the kernel of the system and its process group from the host; when a kernel dies, the
rest of its group is killed before its id can be used again.

Limits: Linux only (elsewhere, and wherever a fork cannot be had, kernels start as `codevision-local` does, and
`report` says why). The seed of `hash()` and the address layout are the parent's, so all its kernels share them. Children
that left their kernel's process group survive, as they do without a fork. No isolation. The umask and the resource limits are
those the host had when the parent was started. With the memory goes trust: whatever a library did on import is in all
kernels of a parent.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Report", "close_parents", "report"]


def __getattr__(name: str) -> Any:
    # Lazy: the parent process imports this package too, and must not load the host's side.
    if name in __all__:
        from kernel_agent.provisioners.zygote import parents

        return getattr(parents, name)
    raise AttributeError(name)
