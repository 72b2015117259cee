"""`python -m kernel_agent.cli`."""

from kernel_agent.cli import main

main()
