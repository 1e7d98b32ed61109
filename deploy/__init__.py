"""Setting the project up and running it on one machine, with nothing but the standard library."""
