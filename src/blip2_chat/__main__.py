"""`python -m blip2_chat`: the command line, where the script `blip2-chat` is not on the PATH."""

from .cli import main

if __name__ == "__main__":  # not in worker processes, which import this again under another name
    main()
