"""How the embedded model was trained, from nothing: `python -m kernel_agent.train.embedded` (its card says with what result)."""
