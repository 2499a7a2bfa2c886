"""Tables of kinds that rules and readers share: sources, file formats, column layouts."""
