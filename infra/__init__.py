"""The embedded stack, images, generated pages."""
