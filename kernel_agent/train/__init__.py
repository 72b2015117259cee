"""Training. May import anything; nothing imports it."""
