"""A fork server ("zygote"): kernels as forks of one warm parent process; what `KernelOptions(fork=True)` asks for.

::

    host process                    parent (server.py)                  kernel (warm_app.py)
    provisioner.py  asks for        holds ipykernel's shell, NumPy,     a fork: new session, streams, environment,
    parents.py      one parent per  Pillow, OpenCV and pyplot (warm.py), sockets and threads; reads its own
    parent.py       environment     one thread, no kernel's key          connection file

Guarantees: what runs in a forked kernel sees what an ordinary kernel of ours gets (settings, sys.path, sys.argv, environment,
working directory, log, process group, exit status), except that the libraries above are already in `sys.modules`; the
random states of `random` and `numpy.random` are fresh in each; no descriptor but 0, 1, 2 is inherited; the parent never
reads a connection file. When the host dies, the parent kills every kernel's process group and ends; when the parent
dies, Linux kills its kernels and the host their process groups; when a kernel dies, the rest of its group is killed
before its id can be used again.

Limits: Linux only. There and elsewhere, a kernel starts the ordinary way wherever a fork cannot be had, and
`report` says why: a library leaves a thread or an open file behind on import, a trial kernel does not come up,
IPYTHONDIR holds settings of the user's own, the caller wants a pipe. No isolation. All kernels of a parent share the seed of
`hash()` (which `PYTHONHASHSEED=0` fixes anyway) and the layout of addresses; their umask and resource limits are those
the host had when the parent was started. Children that left their kernel's process group survive, as without a fork.
Hundreds of kernels need as many descriptors as without one: about 60 in each and 19 in the host.
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
