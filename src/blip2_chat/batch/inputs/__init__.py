"""Sources of a run -> pictures: folders, patterns, lists, tables, archives, URLs."""
