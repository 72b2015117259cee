"""How kernels come to life: the `codevision` provisioner of `jupyter_client`, found through its entry point.

It forks a kernel from a warm parent (zygote/) or starts an ordinary process; `types.KernelOptions` chooses, and names
another provisioner where kernels run elsewhere (Gateway Provisioners for Kubernetes, YARN, SSH).
"""
