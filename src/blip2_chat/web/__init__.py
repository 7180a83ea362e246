"""A page and an OpenAI-compatible API over one model: `blip2-chat serve`.

request -> guard.py      host, origin, key
        -> intake.py     a place in the queue, a bounded body
        -> openai_api.py / caption_api.py
        -> pictures.py   bytes or URL -> pixels, in threads of their own
        -> scheduler.py  one thread, one batch: every request's rows are written side by side
"""
