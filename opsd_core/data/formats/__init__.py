"""File formats: one file each, one line each in `opsd_core.config.kinds.sources`; and the text that they are made of."""
