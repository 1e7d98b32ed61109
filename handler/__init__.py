"""What runs in the worker: photo bytes in, make / model / year out."""
