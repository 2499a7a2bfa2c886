"""File formats: one file each, one line each in `opsd_core.config.kinds.source_kinds`; and the text that they are made of."""
