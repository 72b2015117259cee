"""A package of its own: verl and TransferQueue install one that is called the same."""
