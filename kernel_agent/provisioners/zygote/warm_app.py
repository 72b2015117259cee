"""ipykernel's application in two halves: `prepare` before the fork, `open` after it.

The first half reads settings and makes the kernel object and its shell; the second makes what cannot be forked: the
session with its key, ZMQ sockets, event loops and threads. Upstream's own methods do both, in upstream's order; ours is
only that the kernel object is made early and given its connections late. Works with ipykernel 6.31 and 7.
"""

from __future__ import annotations

import atexit
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import zmq
from ipykernel.compiler import XCachingCompiler
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from kernel_agent.session import kernel_app
from kernel_agent.session.branch_process import connect


class WarmKernel(IPythonKernel):
    """An ipykernel that is made without connections and gets them when it is asked for the second time."""

    @classmethod
    def instance(cls, *args: Any, **kwargs: Any) -> Any:
        """The one kernel object: made by the first call, given its connections by upstream's `init_kernel`."""
        kernel: Any = super().instance(*args, **kwargs)
        if "session" in kwargs:
            kernel.connect(**kwargs)
        return kernel

    def connect(self, **connections: Any) -> None:
        """What `IPythonKernel.__init__` does with its connections."""
        connect(self, connections)
        self._stdout, self._stderr = sys.stdout, sys.stderr
        shell: Any = self.shell
        atexit.unregister(shell.atexit_operations)  # it has to run before the sockets are closed, so it is put last
        atexit.register(shell.atexit_operations)
        if "JPY_SESSION_NAME" in os.environ:
            shell.user_ns["__session__"] = os.environ["JPY_SESSION_NAME"]


class WarmCompiler(XCachingCompiler):
    """ipykernel's compiler, which says of each cell that it belongs to `__main__`.

    Else a traceback asks `inspect.getmodule`, which looks for the cell's file in every module there is: the counts of
    references and the namespaces of those fill 4 MB in each kernel.
    """

    def cache(self, *args: Any, **kwargs: Any) -> str:
        """Upstream's: keep the cell's source under a file name, and return the name."""
        name = str(super().cache(*args, **kwargs))
        inspect.modulesbyfile[name] = "__main__"
        return name


class WarmApp(kernel_app.KernelApp):
    """The launcher's application, ready up to its sockets."""

    opencv_threads: int | None = None

    @classmethod
    def prepare(cls) -> Self:
        """The half before the fork. Leaves the process without threads, sockets or an event loop."""
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as init_gui_pylab does
        app: Any = cls.instance(config=_settings(), kernel_class=WarmKernel)
        above: Any = super(IPKernelApp, app)
        above.initialize([])  # settings and profile; the sockets come later
        app.init_pdb()
        app.init_blackhole()
        WarmKernel.instance(parent=app, log=app.log, profile_dir=app.profile_dir, user_ns=app.user_ns)
        app.kernel = WarmKernel.instance()
        compiler: Any = WarmCompiler
        app.kernel.shell.compile = compiler()
        app.log.setLevel(app.log_level)  # else a record is made for each of ipykernel's debug messages, then dropped
        app.kernel.shell._sys_modules_keys = set(sys.modules)
        return cast("Self", app)

    def open(self, connection_file: str, bound: Callable[[], None]) -> None:
        """The half after the fork, up to `start`; calls `bound` when clients may connect."""
        app: Any = self  # upstream has no types
        sys.argv = [str(kernel_app.__file__), "-f", connection_file]
        self.argv = sys.argv[1:]
        self._move_in()
        self.connection_file = connection_file
        self.parent_handle = os.getppid()
        if self.opencv_threads is not None:
            sys.modules["cv2"].setNumThreads(self.opencv_threads)
        app.init_connection_file()
        app.init_poller()
        app.init_sockets()
        app.init_heartbeat()
        app.write_connection_file()
        bound()
        app.log_connection_info()
        app.init_io()
        app.init_signal()
        app.init_kernel()
        app.init_path()
        app.init_shell()
        app.init_gui_pylab()
        app.init_extensions()
        app.init_code()
        self._welcome()
        sys.stdout.flush()
        sys.stderr.flush()

    def init_code(self) -> None:
        """Upstream's, less its last step: a set of all module names, whose counts of references fill 2 MB in each kernel."""
        app: Any = self
        app._run_startup_files()
        app._run_exec_lines()
        app._run_exec_files()
        if app.hide_initial_ns:
            app.shell.user_ns_hidden.update(app.shell.user_ns)
        app._run_cmd_line_code()
        app._run_module()

    def _welcome(self) -> None:
        """Greet the clients that came while the rest was set up: that message has to be their first (ipykernel 7)."""
        thread: Any = self.iopub_thread
        if hasattr(thread, "_xpub_stream"):
            thread.schedule(lambda: thread._xpub_stream.flush(zmq.POLLIN))

    def _move_in(self) -> None:
        """Take the environment's and the working directory's place in what was made before the fork."""
        from IPython.paths import get_ipython_dir

        app: Any = self
        shell = app.kernel.shell
        shell.init_environment()
        self.ipython_dir = shell.ipython_dir = get_ipython_dir()
        self.profile_dir = None
        app.init_profile_dir()
        self.kernel.profile_dir = shell.profile_dir = self.profile_dir
        shell.starting_dir = str(Path.cwd())
        shell.history_manager.dir_hist[:] = [Path.cwd()]


def _settings() -> Config:
    """The settings the launcher starts with: heard from the launcher itself, so that the two cannot differ."""
    found: list[Config] = []

    class Listener:
        @staticmethod
        def launch_instance(*, config: Config) -> None:
            found.append(config)

    launcher: Any = kernel_app
    real, launcher.KernelApp = launcher.KernelApp, Listener
    try:
        launcher.main()
    finally:
        launcher.KernelApp = real
    return found[0]
