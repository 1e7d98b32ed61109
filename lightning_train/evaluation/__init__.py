"""What is said of a model, and how it is shown."""
