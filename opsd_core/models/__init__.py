"""Language models: loading and saving, forward passes, adapters, the built-in ones."""
