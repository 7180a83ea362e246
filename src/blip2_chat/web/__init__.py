"""A page and an OpenAI-compatible API over one model or several: `blip2-chat serve`.

request -> guard.py      host, origin, key
        -> intake.py     a place in the queue, a bounded body
        -> openai_api.py / caption_api.py
        -> served.py     the model that was chosen
        -> pictures.py   bytes or URL -> pixels, in threads of their own
        -> scheduler.py  each model's thread and batch: all requests' rows are written side by side
"""
