"""The public API in front of TorchServe."""
