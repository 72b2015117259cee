"""Isolation of a kernel's process, as layers that it puts on itself before it runs anybody's code.

::

    host                               kernel process
    probes.choose(wanted) -> Choice    enter(plan)   namespaces, mounts, uid, rlimits, Landlock; before any socket
    prepare(choice, ...) -> Prepared   ipykernel     makes its sockets
    MemoryCap(pid, ...)                seal(plan)    address space, seccomp on all threads; before any cell

Levels, what each contains, and what it does not: `levels.Level`. Linux on x86_64 and aarch64 by ctypes alone; macOS by
`seatbelt`; elsewhere by a container engine. Nothing here keeps code in a kernel from lying about its own results.
"""
