"""What a user points at -> pictures: folders, globs, lists, tables, archives, URLs."""
