"""The recipe that makes the model shipped in ``blip2_chat/demo``; see README.md in this folder."""
