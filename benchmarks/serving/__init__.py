"""How fast photos are answered, beside the bare engine and beside the usual ways to serve."""
