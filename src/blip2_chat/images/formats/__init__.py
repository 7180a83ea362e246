"""What particular file formats need before Pillow decodes them."""
