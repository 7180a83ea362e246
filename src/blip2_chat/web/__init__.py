"""A web page and an OpenAI-compatible API over one or several models: `blip2-chat serve`.

request -> middleware/       access log, authentication, admission (queue and size limits)
        -> routes/           the endpoints
        -> pictures/         bytes or URL -> pixels, in a thread pool
        -> model_worker.py   the chosen model
        -> scheduler.py      its thread and its batch, which all requests share
"""
